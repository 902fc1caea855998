# SPDX-License-Identifier: Apache-2.0
"""The manager of an ordinary user: one process, which needs no rights but the user's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from uuid import UUID

from globus_compute_endpoint.amqp.consumer import Delivery
from globus_compute_endpoint.config.manager import ManagerSettings, load_manager_settings
from globus_compute_endpoint.gateway.commands import (
    Refused,
    StartCommand,
    parse_command,
    read_credentials,
)
from globus_compute_endpoint.gateway.notices import Notices
from globus_compute_endpoint.gateway.registering import Registrar, manager_request
from globus_compute_endpoint.gateway.uplink import Uplink
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.manager.supervisor import Supervisor
from globus_compute_endpoint.manager.views import overview_of
from globus_compute_endpoint.overview import Overview, answering_status
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, WebServices
from globus_compute_endpoint.spawner.lookup import calling_user
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.service import STOP_SIGNALS, Hooks
from globus_compute_endpoint.user_manager.adoption import adopt_own
from globus_compute_endpoint.user_manager.hosting import Keeping, OwnHosting
from globus_compute_endpoint.user_manager.processes import ProcessRecords, records_directory
from globus_compute_endpoint.user_manager.user_bus import user_service_manager

__all__ = ["UserManagerSettings", "serve_user_manager"]

log = logging.getLogger(__name__)

_NOTICES_TIMEOUT_S = 10.0
# The services will have nothing of us any more; else user endpoints are our successor's to adopt.
_FINAL = (ExitStatus.DATA, ExitStatus.UNAVAILABLE, ExitStatus.NO_PERMISSION)


@dataclass(frozen=True)
class UserManagerSettings:
    """What a user's manager is."""

    name: str
    directory: EndpointDirectory
    registration: Registration
    instance: UUID
    debug: bool


def serve_user_manager(settings: UserManagerSettings, hooks: Hooks) -> None:
    """Serve until told to stop, and tell when start commands are taken.

    Raises:
        Problem: it cannot start, or not go on.
    """
    files = load_manager_settings(settings.directory.path)
    if settings.debug:
        files = replace(files, config=files.config.model_copy(update={"debug": True}))
    _check_mapping(files, settings.directory)
    user = calling_user()
    services = WebServices(files.config)
    own = services.userinfo().identities
    records = records_directory(settings.directory.path)
    records.mkdir(mode=0o700, exist_ok=True)
    service = _Service(settings, files, services, hooks)
    problem = asyncio.run(service.run(user, own))
    if problem:
        raise problem


def _check_mapping(files: ManagerSettings, directory: EndpointDirectory) -> None:
    path = files.config.identity_mapping_config_path
    if path is None:
        return
    if os.geteuid() == 0:
        raise Problem(
            "MAPPING_NEEDS_UNITS",
            f"{directory.config} maps identities to local users, which takes the system's units",
            "configure it as root without --config-dir and use systemctl; or remove"
            " identity_mapping_config_path to run functions of your own identities as root",
            ExitStatus.CONFIGURATION,
        )
    log.warning(
        "identity_mapping_config_path is ignored: not run by root, this manager takes functions of"
        " your own identities alone; remove the line from %s",
        directory.config,
    )


class _Service:
    """Ties uplink, supervisor and notices together."""

    def __init__(
        self,
        settings: UserManagerSettings,
        files: ManagerSettings,
        services: WebServices,
        hooks: Hooks,
    ) -> None:
        self._settings = settings
        self._files = files
        self._services = services
        self._hooks = hooks
        self._first: Registration | None = settings.registration
        self._over: asyncio.Future[Problem | None]
        self._supervisor: Supervisor
        self._notices: Notices
        self._starts: set[asyncio.Task[None]] = set()

    async def run(self, user: LocalUser, own: frozenset[UUID]) -> Problem | None:
        """Until a signal, or a refusal that no retry mends, which is returned."""
        self._over = asyncio.get_running_loop().create_future()
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        self._notices = Notices(self._files.config)
        directory = records_directory(self._settings.directory.path)
        keeping, records = Keeping(ProcessRecords(directory)), StartRecords(directory)
        async with user_service_manager(user.uname, keeping.lose_scopes) as keeping.scopes:
            hosting = OwnHosting(self._load, user, own, keeping)
            self._supervisor = Supervisor(self._files, records, hosting, self._tell_end)
            supervisor = self._supervisor
            adopt_own(
                records,
                keeping,
                adopt=supervisor.adopt,
                on_end=supervisor.died,
                resume=supervisor.resume,
            )
            supervisor.registered(self._settings.registration.endpoint_id)
            address = self._hooks.status_address
            async with self._connected():
                with answering_status(address, self._overview):
                    problem = await self._over
                if problem is None or problem.exit_status in _FINAL:
                    await self._end_all()
            await self._close_notices()
        return problem

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        uplink = Uplink(self._settings.name, self._files.config, self)
        tasks = [asyncio.create_task(uplink.run()), asyncio.create_task(self._watch_instance())]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch_instance(self) -> None:
        """End when another instance takes the endpoint over, on whichever machine."""
        # Files on a shared file system tell nobody when they change.
        while self._hooks.is_ours():  # noqa: ASYNC110
            await asyncio.sleep(self._files.config.heartbeat_period)
        log.info("Stopping: another instance has taken this endpoint over")
        self._finish(None)

    async def _overview(self) -> Overview:
        return await overview_of(self._supervisor.summary, self._supervisor.running)

    def _load(self) -> ManagerSettings:
        """Templates and environment as they are now; what else changed takes a restart."""
        files = load_manager_settings(self._settings.directory.path)
        return replace(files, config=self._files.config)

    async def register(self) -> Registration:
        """See :class:`UplinkUser`."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        directory = self._settings.directory
        request = manager_request(self._settings.name, self._files, directory.config)
        registrar = Registrar(
            self._services,
            replace(request, instance=self._settings.instance),
            directory.path / "endpoint.json",
            self._settings.registration.endpoint_id,
        )
        return await registrar.register(lambda problem: log.warning("%s; trying again", problem))

    def consuming(self) -> None:
        """See :class:`UplinkUser`."""
        log.info("Taking start commands")
        self._hooks.ready()

    def commands_lost(self) -> None:
        """See :class:`UplinkUser`: a command which comes twice is taken for fresh credentials."""

    def disconnected(self) -> None:
        """See :class:`UplinkUser`."""

    def received(self, delivery: Delivery) -> None:
        """See :class:`UplinkUser`."""
        if self._supervisor.stopping:
            return  # not acknowledged: it comes again to who is there then
        command = parse_command(delivery)
        if isinstance(command, Refused):
            log.error("refused a command: %s", command.problem)
            delivery.reject(requeue=False)
            if command.credentials:
                self._notices.report(command.credentials, ProblemFields.of(command.problem))
            return
        task = asyncio.create_task(self._carry_out(command, delivery))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _carry_out(self, command: StartCommand, delivery: Delivery) -> None:
        try:
            await self._supervisor.start(StartRecord(command.as_start(), command.blob))
        except Problem as problem:
            log.error("refused to start user endpoint %s: %s", command.endpoint_id, problem)
            self._notices.report(command.credentials, ProblemFields.of(problem))
        except Exception:
            log.exception("starting user endpoint %s failed", command.endpoint_id)
            self._notices.report(command.credentials, _START_FAILED)
        delivery.ack()

    def _tell_end(self, endpoint_id: UUID, problem: ProblemFields, blob: bytes) -> None:
        credentials = read_credentials({"kwargs": json.loads(blob)})
        assert credentials is not None, endpoint_id  # it was started with them
        self._notices.report(credentials, problem)

    async def _end_all(self) -> None:
        await self._supervisor.close()
        for start in self._starts:
            start.cancel()  # not acknowledged: it comes again
        await asyncio.gather(*self._starts, return_exceptions=True)
        await self._supervisor.stop_all()

    async def _close_notices(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NOTICES_TIMEOUT_S):
                await self._notices.close()

    def _stop(self, number: signal.Signals) -> None:
        log.info("Stopping: %s received", signal.Signals(number).name)
        self._finish(None)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        if not isinstance(error, Problem):
            log.error("the manager failed", exc_info=error)
            error = Problem("MANAGER_FAILED", f"{type(error).__name__}: {error}")
        self._finish(error)

    def _finish(self, problem: Problem | None) -> None:
        if not self._over.done():
            self._over.set_result(problem)


_START_FAILED = ProblemFields(
    code="START_FAILED",
    message="the endpoint could not start your user endpoint",
    hint="see the end of the manager's endpoint.log",
)
