# SPDX-License-Identifier: Apache-2.0
"""The gateway's unit: registered, consuming commands, and telling that it lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport
from pika.exceptions import AMQPConnectionError, ProbableAccessDeniedError
from pika.exceptions import ProbableAuthenticationError as AuthenticationError
from pydantic import SecretStr, ValidationError
from setproctitle import setproctitle

from globus_compute_endpoint.amqp.connection import Connection
from globus_compute_endpoint.amqp.consumer import Consumer, Delivery
from globus_compute_endpoint.amqp.publisher import Publisher
from globus_compute_endpoint.config.manager import ManagerSettings, load_manager_settings
from globus_compute_endpoint.gateway.commands import (
    Refused,
    StartCommand,
    parse_command,
    read_credentials,
)
from globus_compute_endpoint.gateway.manager_client import ManagerClient
from globus_compute_endpoint.gateway.notices import Notices
from globus_compute_endpoint.gateway.registering import Registrar
from globus_compute_endpoint.host import journal, notify
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.manager.protocol import Ended, Failed, ProblemFields, Start, Status
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration

__all__ = ["run_gateway"]

log = logging.getLogger(__name__)

_READY_AT_LAST_S = 30.0
_COMMANDS_AT_ONCE = 32
_GOODBYE_TIMEOUT_S = 3.0
_MANAGER_TIMEOUT_S = 30.0
_QUEUE_REFUSED = (403, 404)  # the replies of a broker which was set up anew
_CREDENTIALS_REFUSED = (AuthenticationError, ProbableAccessDeniedError)


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
        self._consumer: Consumer | None = None
        self._registration: Registration | None = None
        self._credentials_refused = asyncio.Event()
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
            asyncio.create_task(self._serve()),
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

    async def _serve(self) -> None:
        """Register, then stay connected; with fresh credentials whenever ours are refused."""
        registrar = Registrar(self._paths, self._settings)
        self._show("waiting for the web services")
        registration = await registrar.register(self._registration_failed)
        async with self._connected(registration) as connections:
            while True:
                await self._credentials_refused.wait()
                self._credentials_refused.clear()
                registration = await registrar.register(self._registration_failed)
                for connection, url in zip(connections, _urls(registration), strict=True):
                    connection.replace_url(url)

    @contextlib.asynccontextmanager
    async def _connected(self, registration: Registration) -> AsyncIterator[list[Connection]]:
        self._registration = registration
        log.info("registered as endpoint %s", registration.endpoint_id)
        commands = registration.command_queue_info
        if commands is None:
            raise Problem(
                "NOT_A_MANAGER",
                "the web services gave this manager no command queue",
                "an endpoint which was registered as another kind must be registered anew",
                ExitStatus.UNAVAILABLE,
            )
        heartbeats = Publisher(registration.heartbeat_queue_info.queue_publish_kwargs)
        self._consumer = Consumer(
            commands.queue,
            self._received,
            prefetch=_COMMANDS_AT_ONCE,
            on_consuming=lambda: self._show(""),
        )
        connections = [
            self._connection(url, name, on_down)
            for url, name, on_down in zip(
                _urls(registration),
                ("commands", "heartbeats"),
                (self._commands_down, self._connection_down),
                strict=True,
            )
        ]
        connections[0].add(self._consumer)
        connections[1].add(heartbeats)
        tasks = [asyncio.create_task(connection.run()) for connection in connections]
        tasks.append(asyncio.create_task(self._beat(heartbeats)))
        self._show("waiting for the message broker")
        try:
            yield connections
        finally:
            tasks.pop().cancel()
            self._consumer.cancel()
            with contextlib.suppress(Exception):  # a goodbye that nobody hears is no harm
                async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                    await heartbeats.publish(self._heartbeat(active=False))
            await asyncio.gather(*(connection.close() for connection in connections))
            await asyncio.gather(*tasks)

    def _connection(
        self, url: SecretStr, name: str, on_down: Callable[[BaseException], None]
    ) -> Connection:
        config = self._settings.config
        return Connection(
            url,
            name=f"{self._paths.name} {name}",
            port=config.amqp_port,
            ca_file=config.services.ca_file,
            on_down=on_down,
        )

    def _commands_down(self, reason: BaseException) -> None:
        self._manager.forget_starts()
        self._connection_down(reason)

    def _connection_down(self, reason: BaseException) -> None:
        self._show("waiting for the message broker")
        causes = [reason]
        if isinstance(reason, AMQPConnectionError):
            causes.extend(arg for arg in reason.args if isinstance(arg, BaseException))
        lost_our_queue = getattr(reason, "reply_code", None) in _QUEUE_REFUSED
        if lost_our_queue or any(isinstance(cause, _CREDENTIALS_REFUSED) for cause in causes):
            self._credentials_refused.set()

    async def _beat(self, heartbeats: Publisher) -> None:
        """One heartbeat a period; one that could not be confirmed is not worth repeating."""
        while True:
            confirmed = heartbeats.publish(self._heartbeat(active=True))
            await asyncio.sleep(self._settings.config.heartbeat_period)
            if not confirmed.cancel() and (error := confirmed.exception()):
                log.warning("a heartbeat reached nobody: %s", error)

    def _heartbeat(self, *, active: bool) -> bytes:
        assert self._registration is not None
        period = self._settings.config.heartbeat_period if active else 0
        state = {"heartbeat_period": period, "active": active}
        return messagepack.pack(
            EPStatusReport(
                endpoint_id=self._registration.endpoint_id, global_state=state, task_statuses={}
            )
        )

    def _received(self, delivery: Delivery) -> None:
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
            frame = Start(
                number=self._manager.next_number(),
                endpoint_id=command.endpoint_id,
                name=command.name,
                effective_identity=command.effective_identity,
                identities=command.identities,
            )
        except ValidationError as error:
            problem = Problem(
                "MALFORMED_COMMAND", f"the start command is malformed: {error.error_count()} errors"
            )
            self._refuse(delivery, Refused(problem, command.credentials))
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
        consuming = self._consumer is not None and self._consumer.consuming
        ready = not waiting_for and consuming and self._manager.is_up
        if not waiting_for and not ready:
            waiting_for = "waiting for the " + (
                "manager" if not self._manager.is_up else "message broker"
            )
        endpoint_id = self._registration.endpoint_id if self._registration else None
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


def _urls(registration: Registration) -> tuple[SecretStr, SecretStr]:
    commands = registration.command_queue_info or registration.task_queue_info
    return commands.connection_url, registration.heartbeat_queue_info.connection_url


def _fields(problem: Problem) -> dict[str, str]:
    return {"GC_PROBLEM": problem.code}
