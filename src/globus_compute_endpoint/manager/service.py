# SPDX-License-Identifier: Apache-2.0
"""The manager's unit: readiness, the gateway's frames, the mapping file, and the way it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from uuid import UUID

from setproctitle import setproctitle

from globus_compute_endpoint.host import journal, notify, packets
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.host.systemd import ServiceManager
from globus_compute_endpoint.manager.adoption import adopt_user_endpoints
from globus_compute_endpoint.manager.aftermath import as_problem
from globus_compute_endpoint.manager.gateway_link import GatewayLink
from globus_compute_endpoint.manager.in_force import InForce, is_seen_by_gateway
from globus_compute_endpoint.manager.protocol import Failed, ProblemFields, Start, Status
from globus_compute_endpoint.manager.reloading import ReloadSocket
from globus_compute_endpoint.manager.spawner_client import SpawnerClient
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.manager.supervisor import Supervisor
from globus_compute_endpoint.manager.system import SystemHosting
from globus_compute_endpoint.manager.user_endpoint import Host
from globus_compute_endpoint.manager.views import overview_of
from globus_compute_endpoint.overview import Overview, status_socket
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["run_manager"]

log = logging.getLogger(__name__)

_READY_AT_LAST_S = 30.0
_STOP_JOBS = ("stop",)
_MAX_STARTS = 64
_END_S = 60.0  # for user endpoints to end, once they have finished up
_TOO_BUSY = Problem(
    "TOO_BUSY",
    "too many user endpoints are being started at once",
    "submit again in a minute",
    ExitStatus.TEMPORARY,
)


def run_manager(paths: EndpointPaths) -> int:
    """Serve until SIGTERM; returns the exit status, raises Problem where it cannot start."""
    setproctitle(f"Globus Compute Endpoint manager ({paths.name})")
    in_force = InForce(paths)
    _log(in_force)
    return asyncio.run(_Service(paths, in_force).run())


def _log(in_force: InForce) -> None:
    journal.log_to_journal("globus-compute-endpoint", debug=in_force.settings.config.debug)


def _half_done(problem: Problem) -> Problem:
    text = f"the new configuration is in force for what is started now, but {problem.message}"
    return Problem(problem.code, text, "mend that, and reload again", problem.exit_status)


class _Service:
    """Ties link, supervisor and service manager together."""

    def __init__(self, paths: EndpointPaths, in_force: InForce) -> None:
        self._paths = paths
        self._in_force = in_force
        self._carried_out = in_force.settings  # what limits and gateway are by
        self._over: asyncio.Future[Problem | None]
        self._supervisor: Supervisor
        self._link: GatewayLink
        self._systemd: ServiceManager
        self._hosting: SystemHosting
        self._is_ready = False
        self._gateway_says = "waiting for the gateway"
        self._starts: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Until a signal, or until going on makes no sense."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, None)
        spawner = SpawnerClient(self._paths.spawner_socket)
        records = StartRecords(self._paths.starts)
        async with ServiceManager.connect(self._lost_bus) as self._systemd:
            host = Host(spawner, self._systemd)
            self._hosting = SystemHosting(self._in_force, host)
            self._supervisor = supervisor = Supervisor(
                self._in_force.settings,
                records,
                self._hosting,
                self._tell_gateway,
                self._show_status,
            )
            await adopt_user_endpoints(
                self._paths.manager_unit,
                records,
                host,
                adopt=supervisor.adopt,
                on_end=supervisor.died,
                resume=supervisor.resume,
            )
            async with self._serving():
                problem = await self._over
                await self._stop(problem)
        spawner.close()
        return problem.exit_status if problem else 0

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self._link = GatewayLink(self._paths.manager_socket, self._is_own_gateway, self)
        reloading = ReloadSocket(self._paths.reload_socket, self._reload)
        asked = status_socket(packets.listen(self._paths.status_socket, 0o600), self._overview)
        self._in_force.watch()
        late = loop.call_later(_READY_AT_LAST_S, self._ready)
        watchdog = asyncio.create_task(notify.keep_watchdog())
        self._show_status()
        try:
            yield
        finally:
            watchdog.cancel()
            late.cancel()
            reloading.close()
            asked.close()
            self._in_force.close()
            self._link.close()

    def start(self, frame: Start, blob: bytes) -> None:
        """See :class:`GatewayUser`."""
        if len(self._starts) >= _MAX_STARTS:  # our own gateway never has as many unanswered
            self._link.answer(frame.number, ProblemFields.of(_TOO_BUSY))
            return
        task = asyncio.create_task(self._carry_out(frame, blob))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    def status(self, frame: Status) -> None:
        """See :class:`GatewayUser`."""
        if frame.endpoint_id:
            self._supervisor.registered(frame.endpoint_id)
        self._gateway_says = frame.text
        self._show_status()
        if frame.ready:
            self._ready()

    def failed(self, frame: Failed) -> None:
        """See :class:`GatewayUser`. What the gateway gives up on, the unit fails with."""
        self._end(frame.problem.as_problem())

    def gateway_lost(self) -> None:
        """See :class:`GatewayUser`."""
        self._gateway_says = "waiting for the gateway"
        self._show_status()

    async def _carry_out(self, frame: Start, blob: bytes) -> None:
        problem = None
        try:
            if self._supervisor.stopping:
                raise Problem(
                    "MANAGER_STOPPING",
                    "the endpoint is being stopped",
                    "submit again once it is back",
                    ExitStatus.TEMPORARY,
                )
            await self._supervisor.start(StartRecord(frame, blob))
        except Problem as error:
            problem = ProblemFields.of(error)
            log.error(
                "refused to start user endpoint %s: %s",
                frame.endpoint_id,
                error,
                extra={"GC_ENDPOINT_ID": str(frame.endpoint_id), "GC_PROBLEM": error.code},
            )
        except Exception:
            log.exception("starting user endpoint %s failed", frame.endpoint_id)
            problem = ProblemFields(
                code="START_FAILED",
                message="the endpoint could not start your user endpoint",
                hint="ask its administrator to see the journal of the manager",
            )
        self._link.answer(frame.number, problem)

    async def _reload(self) -> tuple[str, ...]:
        """Take all files anew; Problem: they are refused, and the old ones stay in force."""
        await self._in_force.reload()
        before, after = self._carried_out, self._in_force.settings
        self._supervisor.settings = after
        _log(self._in_force)
        changed = ["the identity mapping"]
        try:
            self._in_force.watch()
            if before != after:
                changed.append("configuration, templates and environment")
            if before.config.resource_control != after.config.resource_control:
                changed.append("limits")
                await self._hosting.apply_limits(self._supervisor.running)
            if is_seen_by_gateway(before, after):
                # It registers anew, with what researchers see of the endpoint. It holds no task.
                await self._systemd.restart_unit(self._paths.gateway_unit)
        except (Problem, OSError) as error:  # the next reload does again what came to nothing
            raise _half_done(as_problem(error)) from error
        self._carried_out = after
        log.info("reloaded: %s", ", ".join(changed))
        return tuple(changed)

    def _tell_gateway(self, endpoint_id: UUID, problem: ProblemFields, blob: bytes) -> None:
        self._link.tell_end(endpoint_id, problem, blob)

    def _is_own_gateway(self, pid: int) -> asyncio.Task[bool]:
        async def check() -> bool:
            return await self._systemd.unit_of(pid) == self._paths.gateway_unit

        return asyncio.create_task(check())

    def _ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            notify.notify(READY=1)

    def _show_status(self) -> None:
        notify.notify(STATUS=self._status)

    @property
    def _status(self) -> str:
        return f"{self._gateway_says}; {self._supervisor.summary}"

    async def _overview(self) -> Overview:
        return await overview_of(self._status, self._supervisor.running)

    def _lost_bus(self) -> None:
        self._end(Problem("BUS_LOST", "the system bus went away", "systemd starts this unit again"))

    def _end(self, problem: Problem | None) -> None:
        if not self._over.done():
            self._over.set_result(problem)

    async def _stop(self, problem: Problem | None) -> None:
        """User endpoints outlive a restart, an upgrade and a crash; they end with a stop."""
        notify.notify(STOPPING=1, STATUS="stopping")
        if problem:
            log.error("%s", problem, extra={"GC_PROBLEM": problem.code})
            return
        await self._supervisor.close()
        for start in self._starts:
            start.cancel()  # unanswered: the gateway asks our successor again
        await asyncio.gather(*self._starts, return_exceptions=True)
        job = await self._systemd.pending_job_type(self._paths.manager_unit)
        if job in _STOP_JOBS:
            patience = self._in_force.settings.config.finish_up_s + _END_S
            notify.notify(
                EXTEND_TIMEOUT_USEC=int(patience * 1e6),
                STATUS=f"stopping: {self._supervisor.count} user endpoints finish up",
            )
            await self._supervisor.stop_all()
        else:
            log.info("leaving %d user endpoints to my successor", self._supervisor.count)
