# SPDX-License-Identifier: Apache-2.0
"""The gateway's unit: registered, consuming commands, and telling that it lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal

from setproctitle import setproctitle

from globus_compute_endpoint.amqp.consumer import Delivery
from globus_compute_endpoint.config.manager import ManagerSettings, load_manager_settings
from globus_compute_endpoint.credentials import app_for, has_client_identity
from globus_compute_endpoint.gateway.commands import (
    Refused,
    StartCommand,
    parse_command,
    read_credentials,
)
from globus_compute_endpoint.gateway.manager_client import ManagerClient
from globus_compute_endpoint.gateway.notices import Notices
from globus_compute_endpoint.gateway.registering import Registrar, manager_request
from globus_compute_endpoint.gateway.uplink import Uplink
from globus_compute_endpoint.host import journal, notify
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.manager.protocol import Ended, Failed, ProblemFields, Status
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, WebServices

__all__ = ["run_gateway"]

log = logging.getLogger(__name__)

_READY_AT_LAST_S = 30.0
_MANAGER_TIMEOUT_S = 30.0


def run_gateway(paths: EndpointPaths) -> int:
    """Serve until SIGTERM; returns the exit status."""
    setproctitle(f"Globus Compute Endpoint gateway ({paths.name})")
    settings = load_manager_settings(paths.configuration, environment=False)
    journal.log_to_journal("globus-compute-endpoint-gateway", debug=settings.config.debug)
    return asyncio.run(_Gateway(paths, settings).run())


class _Gateway:
    """Between the web services and the manager; owns the connections to both."""

    def __init__(self, paths: EndpointPaths, settings: ManagerSettings) -> None:
        self._paths = paths
        self._settings = settings
        self._over: asyncio.Future[Problem | None]
        self._manager: ManagerClient
        self._notices: Notices
        self._registrar: Registrar | None = None
        self._uplink = Uplink(paths.name, settings.config, self)
        self._is_ready = False

    async def run(self) -> int:
        """Until a signal, or a refusal that no retry mends."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, None)
        self._manager = ManagerClient(self._paths.manager_socket, self)
        self._notices = Notices(self._settings.config)
        late = loop.call_later(_READY_AT_LAST_S, self._ready)
        tasks = [
            asyncio.create_task(notify.keep_watchdog()),
            asyncio.create_task(self._manager.run()),
            asyncio.create_task(self._uplink.run()),
        ]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            problem = await self._over
        finally:
            late.cancel()
            notify.notify(STOPPING=1, STATUS="stopping")
        if problem:
            log.error("%s", problem, extra={"GC_PROBLEM": problem.code})
            await self._tell_manager(problem)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._notices.close()
        return problem.exit_status if problem else 0

    async def _tell_manager(self, problem: Problem) -> None:
        """Have the unit that people look at fail with our reason; at boot it may yet be coming."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MANAGER_TIMEOUT_S):
                await self._manager.wait_up()
        self._manager.tell(Failed(problem=ProblemFields.of(problem)))

    def manager_up(self) -> None:
        """See :class:`ManagerUser`."""
        self._show("")

    def ended(self, frame: Ended, blob: bytes) -> None:
        """See :class:`ManagerUser`."""
        # a blob of our own making, on its way back from the manager
        credentials = read_credentials({"kwargs": json.loads(blob)})
        if credentials is None:
            log.error("no credentials to tell the end of %s with", frame.endpoint_id)
        else:
            self._notices.report(credentials, frame.problem)

    async def register(self) -> Registration:
        """See :class:`UplinkUser`."""
        if self._registrar is None:
            self._registrar = _registrar(self._paths, self._settings)
        self._show("waiting for the web services")
        return await self._registrar.register(self._registration_failed)

    def consuming(self) -> None:
        """See :class:`UplinkUser`."""
        self._show("")

    def commands_lost(self) -> None:
        """See :class:`UplinkUser`."""
        self._manager.forget_starts()

    def disconnected(self) -> None:
        """See :class:`UplinkUser`."""
        self._show("waiting for the message broker")

    def received(self, delivery: Delivery) -> None:
        """See :class:`UplinkUser`."""
        command = parse_command(delivery)
        match command:
            case Refused():
                self._refuse(delivery, command)
            case StartCommand():
                self._hand_over(delivery, command)

    def _refuse(self, delivery: Delivery, refused: Refused) -> None:
        log.error("refused a command: %s", refused.problem, extra=_fields(refused.problem))
        delivery.reject(requeue=False)
        if refused.credentials:
            self._notices.report(refused.credentials, ProblemFields.of(refused.problem))

    def _hand_over(self, delivery: Delivery, command: StartCommand) -> None:
        log.info(
            "start command for user endpoint %s",
            command.endpoint_id,
            extra={"GC_ENDPOINT_ID": str(command.endpoint_id)},
        )
        try:
            frame = command.as_start(self._manager.next_number())
        except Problem as error:
            self._refuse(delivery, Refused(error, command.credentials))
            return

        def answered(problem: ProblemFields | None) -> None:
            if problem:
                self._notices.report(command.credentials, problem)
            delivery.ack()

        try:
            self._manager.start(frame, command.blob, answered)
        except ValueError as error:
            problem = Problem("MALFORMED_COMMAND", f"the start command is too large: {error}")
            self._refuse(delivery, Refused(problem, command.credentials))

    def _registration_failed(self, problem: Problem) -> None:
        log.warning("%s; trying again", problem, extra=_fields(problem))
        self._show("waiting for the web services")

    def _show(self, waiting_for: str) -> None:
        ready = not waiting_for and self._uplink.is_consuming and self._manager.is_up
        if not waiting_for and not ready:
            waiting_for = "waiting for the " + (
                "manager" if not self._manager.is_up else "message broker"
            )
        endpoint_id = self._uplink.endpoint_id
        text = f"registered as {endpoint_id}" if ready else waiting_for
        notify.notify(STATUS=text)
        self._manager.show(Status(ready=ready, text=text, endpoint_id=endpoint_id))
        if ready:
            self._ready()

    def _ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            notify.notify(READY=1)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if not isinstance(error, Problem):
            log.error("the gateway failed", exc_info=error)
            error = Problem("GATEWAY_FAILED", f"{type(error).__name__}: {error}")
        self._end(error)

    def _end(self, problem: Problem | None) -> None:
        if not self._over.done():
            self._over.set_result(problem)


def _registrar(paths: EndpointPaths, settings: ManagerSettings) -> Registrar:
    if not has_client_identity() and not paths.login.exists():
        raise Problem(
            "CREDENTIALS_MISSING",
            f"endpoint {paths.name} has nobody to register as",
            f"log in: globus-compute-endpoint login {paths.name}; or write"
            " GLOBUS_COMPUTE_CLIENT_ID= and GLOBUS_COMPUTE_CLIENT_SECRET= into"
            f" {paths.gateway_environment}",
            ExitStatus.NO_PERMISSION,
        )
    services = WebServices(settings.config, app_for(settings.config, storage=paths.login))
    request = manager_request(paths.name, settings, paths.config_yaml)
    return Registrar(services, request, paths.registration)


def _fields(problem: Problem) -> dict[str, str]:
    return {"GC_PROBLEM": problem.code}
