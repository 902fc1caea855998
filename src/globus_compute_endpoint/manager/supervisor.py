# SPDX-License-Identifier: Apache-2.0
"""All user endpoints of one manager: who may have one, which run, and what to do at their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from uuid import UUID
from weakref import WeakValueDictionary

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.adoption import Kept
from globus_compute_endpoint.manager.authorize import Approved, authorize
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.mapping import IdentityMapping
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.manager.spawner_client import Forked, Tenant
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.manager.user_endpoint import (
    End,
    Host,
    UserEndpoint,
    start_user_endpoint,
)
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.protocol import scope_name

__all__ = ["Supervisor", "TellGateway"]

log = logging.getLogger(__name__)

TellGateway = Callable[[UUID, ProblemFields, bytes], None]

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 25.0
_KILL_TIMEOUT_S = 5.0


class Supervisor:
    """Starts user endpoints and sees them end; never waits for the network."""

    def __init__(
        self,
        settings: ManagerSettings,
        mapping: IdentityMapping,
        records: StartRecords,
        host: Host,
        tell_gateway: TellGateway,
    ) -> None:
        self._settings = settings
        self._mapping = mapping
        self._records = records
        self._host = host
        self._tell_gateway = tell_gateway
        self._running: dict[UUID, UserEndpoint] = {}
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._starting: dict[UUID, int] = {}  # the uids
        self._last_command: dict[UUID, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.manager_id: UUID | None = None
        self.stopping = False

    @property
    def count(self) -> int:
        """How many user endpoints run."""
        return len(self._running)

    async def start(self, record: StartRecord) -> None:
        """Carry out a start command; for one that runs, hand its fresh credentials down.

        Raises Problem, fit to be shown to the user who submitted.
        """
        endpoint_id = record.start.endpoint_id
        async with self._lock(endpoint_id):
            running = self._running.get(endpoint_id)
            if running and running.is_alive():
                await self._refresh(running, record)
            else:
                if running:
                    await self._bury(running)
                await self._start_new(record)
            self._last_command[endpoint_id] = time.monotonic()

    def adopt(self, endpoint_id: UUID, record: StartRecord, tenant: Tenant, kept: Kept) -> None:
        """Supervise a user endpoint which an earlier instance of this manager started."""
        control = None
        if kept.control is not None:
            control = Control(endpoint_id, socket.socket(fileno=kept.control))
        forked = Forked(tenant.record.pid, kept.pidfd)
        endpoint = UserEndpoint(record, tenant.record.uid, forked, control, self.died)
        self._running[endpoint_id] = endpoint
        log.info(
            "adopted user endpoint %s, process %d",
            endpoint.endpoint_id,
            endpoint.pid,
            extra={"GC_ENDPOINT_ID": str(endpoint.endpoint_id)},
        )

    async def stop_all(self) -> None:
        """Ask all to finish up, then stop what still runs."""
        self.stopping = True
        endpoints = list(self._running.values())
        for endpoint in endpoints:
            if endpoint.control:
                endpoint.control.stop()
        await _all_ended(endpoints, _STOP_TIMEOUT_S)
        names = [scope_name(endpoint.endpoint_id) for endpoint in endpoints]
        kills = (self._host.systemd.kill_unit(name) for name in names)
        for error in await asyncio.gather(*kills, return_exceptions=True):
            if error:
                log.error("could not end a user endpoint: %s", error)
        await _all_ended(endpoints, _KILL_TIMEOUT_S)
        await asyncio.gather(*self._tasks)

    def died(self, endpoint: UserEndpoint) -> None:
        """Clean up after a user endpoint whose process has ended."""
        task = asyncio.create_task(self._see_to_death(endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self, running: UserEndpoint, record: StartRecord) -> None:
        """The right to use it is checked anew: the blob decides where its tasks come from."""
        approved = await self._authorize(record)
        if approved.user.uid != running.uid:
            raise Problem(
                "USER_ENDPOINT_OF_ANOTHER",
                "this user endpoint runs as another local user",
                "stop it first, or wait until it is idle",
                ExitStatus.UNAVAILABLE,
            )
        self._records.write(record)
        running.record = record
        if running.control:
            running.control.renew_credentials(record.blob)

    async def _authorize(self, record: StartRecord) -> Approved:
        return await authorize(record, self._mapping, self._host.spawner, self._settings.config)

    async def _start_new(self, record: StartRecord) -> None:
        assert self.manager_id is not None  # a gateway that sends starts has registered
        start = record.start
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                approved = await self._authorize(record)
                self._check_numbers(approved.user)
                self._starting[start.endpoint_id] = approved.user.uid
                self._records.write(record)
                endpoint = await start_user_endpoint(
                    approved, self._settings, self.manager_id, self._host, self.died
                )
        except TimeoutError:
            self._records.remove(start.endpoint_id)
            raise Problem(
                "START_TIMEOUT",
                f"the user endpoint did not start within {_START_TIMEOUT_S:.0f} s",
                "try again; if it persists, tell the endpoint's administrator",
                ExitStatus.TEMPORARY,
            ) from None
        except BaseException:
            self._records.remove(start.endpoint_id)
            raise
        finally:
            self._starting.pop(start.endpoint_id, None)
        self._running[start.endpoint_id] = endpoint
        log.info(
            "started user endpoint %s as %s (uid %d), process %d, for %s",
            start.endpoint_id,
            approved.user.uname,
            approved.user.uid,
            endpoint.pid,
            approved.mapped.identity.username,
            extra=approved.fields(),
        )

    def _check_numbers(self, user: LocalUser) -> None:
        config = self._settings.config
        uids = [endpoint.uid for endpoint in self._running.values()] + [*self._starting.values()]
        of_user = uids.count(user.uid)
        if of_user >= config.max_user_endpoints_per_user or len(uids) >= config.max_user_endpoints:
            raise Problem(
                "TOO_MANY_USER_ENDPOINTS",
                f"{of_user} user endpoints of yours and {len(uids)} in all run here already",
                "use fewer different user_endpoint_config values, or wait until some are idle",
                ExitStatus.UNAVAILABLE,
            )

    async def _see_to_death(self, endpoint: UserEndpoint) -> None:
        endpoint_id = endpoint.endpoint_id
        async with self._lock(endpoint_id):
            if self._running.get(endpoint_id) is not endpoint:
                return  # buried already; or it died while it was started, and the start tells
            commanded_lately = self._commanded_lately(endpoint_id)
            try:
                end = await self._bury(endpoint)
                if end.clean and commanded_lately:
                    await self._start_new(endpoint.record)
            except (Problem, OSError) as error:
                log.error("after the end of user endpoint %s: %s", endpoint_id, error)
                problem = error if isinstance(error, Problem) else _bus_failed(error)
                self._tell_gateway(endpoint_id, ProblemFields.of(problem), endpoint.record.blob)

    async def _bury(self, endpoint: UserEndpoint) -> End:
        endpoint_id = endpoint.endpoint_id
        try:
            end = await endpoint.clean_up(self._host)
        finally:
            endpoint.let_go()
            del self._running[endpoint_id]
            self._records.remove(endpoint_id)
        log.log(
            logging.INFO if end.clean else logging.ERROR,
            "user endpoint %s, process %d, has ended%s",
            endpoint_id,
            endpoint.pid,
            "" if end.clean else f": {end.problem or 'it told its user why'}",
            extra={"GC_ENDPOINT_ID": str(endpoint_id)},
        )
        if end.problem:
            self._tell_gateway(endpoint_id, end.problem, endpoint.record.blob)
        return end

    def _lock(self, endpoint_id: UUID) -> asyncio.Lock:
        return self._locks.setdefault(endpoint_id, asyncio.Lock())

    def _commanded_lately(self, endpoint_id: UUID) -> bool:
        """A command which came while it was about to end must not be lost with it."""
        last = self._last_command.pop(endpoint_id, None)
        grace = self._settings.config.mu_child_ep_grace_period_s
        return last is not None and time.monotonic() - last < grace and not self.stopping


async def _all_ended(endpoints: list[UserEndpoint], seconds: float) -> None:
    """Return when all have ended, or after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(endpoint.wait() for endpoint in endpoints))


def _bus_failed(error: OSError) -> Problem:
    return Problem("SYSTEMD_UNREACHABLE", f"systemd did not answer: {error or 'time-out'}")
