# SPDX-License-Identifier: Apache-2.0
"""All user endpoints of one manager: who may have one, which run, and what to do at their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.hosting import End, Hosting, UserEndpoint
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Supervisor", "TellEnd"]

log = logging.getLogger(__name__)

TellEnd = Callable[[UUID, ProblemFields, bytes], None]

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 25.0
_KILL_TIMEOUT_S = 5.0


class Supervisor:
    """Starts user endpoints and sees them end; never waits for the network."""

    def __init__(
        self,
        settings: ManagerSettings,
        records: StartRecords,
        hosting: Hosting,
        tell_end: TellEnd,
    ) -> None:
        self.settings = settings
        self._records = records
        self._hosting = hosting
        self._tell_end = tell_end
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

    def adopt(self, endpoint: UserEndpoint) -> None:
        """Supervise a user endpoint which an earlier instance of this manager started."""
        self._running[endpoint.endpoint_id] = endpoint
        log.info(
            "adopted user endpoint %s, process %d",
            endpoint.endpoint_id,
            endpoint.pid,
            extra={"GC_ENDPOINT_ID": str(endpoint.endpoint_id)},
        )

    @property
    def running(self) -> list[UserEndpoint]:
        """Those which run."""
        return list(self._running.values())

    async def stop_all(self) -> None:
        """Ask all to finish up, then to end; kill what still runs.

        What did not come to its end stays in the journals of the user endpoints.
        """
        self.stopping = True
        endpoints = self.running
        for endpoint in endpoints:
            endpoint.ask_to_finish()
        await _all_ended(endpoints, self.settings.config.finish_up_s)
        endpoints = [endpoint for endpoint in endpoints if endpoint.is_alive()]
        await _try_all(endpoint.ask_to_end() for endpoint in endpoints)
        await _all_ended(endpoints, _STOP_TIMEOUT_S)
        await _try_all(endpoint.kill() for endpoint in endpoints if endpoint.is_alive())
        await _all_ended(endpoints, _KILL_TIMEOUT_S)
        await asyncio.gather(*self._tasks)

    def died(self, endpoint: UserEndpoint) -> None:
        """Clean up after a user endpoint whose process has ended."""
        task = asyncio.create_task(self._see_to_death(endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self, running: UserEndpoint, record: StartRecord) -> None:
        """The right to use it is checked anew: the blob decides where its tasks come from."""
        approved = await self._hosting.authorize(record)
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

    async def _start_new(self, record: StartRecord) -> None:
        assert self.manager_id is not None  # a gateway that sends starts has registered
        start = record.start
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                approved = await self._hosting.authorize(record)
                self._check_numbers(approved.user)
                self._starting[start.endpoint_id] = approved.user.uid
                self._records.write(record)
                endpoint = await self._hosting.start(approved, self.manager_id, self.died)
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
            approved.identity.username,
            extra=approved.fields(),
        )

    def _check_numbers(self, user: LocalUser) -> None:
        config = self.settings.config
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
                self._tell_end(endpoint_id, ProblemFields.of(problem), endpoint.record.blob)

    async def _bury(self, endpoint: UserEndpoint) -> End:
        endpoint_id = endpoint.endpoint_id
        try:
            end = await endpoint.clean_up()
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
        if end.problem and not self.stopping:  # else what it had to do waits for its successor
            self._tell_end(endpoint_id, end.problem, endpoint.record.blob)
        return end

    def _lock(self, endpoint_id: UUID) -> asyncio.Lock:
        return self._locks.setdefault(endpoint_id, asyncio.Lock())

    def _commanded_lately(self, endpoint_id: UUID) -> bool:
        """A command which came while it was about to end must not be lost with it."""
        last = self._last_command.pop(endpoint_id, None)
        grace = self.settings.config.mu_child_ep_grace_period_s
        return last is not None and time.monotonic() - last < grace and not self.stopping


async def _try_all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Make all of them, whatever becomes of one."""
    for error in await asyncio.gather(*calls, return_exceptions=True):
        if error:
            log.error("could not end a user endpoint: %s", error)


async def _all_ended(endpoints: list[UserEndpoint], seconds: float) -> None:
    """Return when all have ended, or after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(endpoint.wait() for endpoint in endpoints))


def _bus_failed(error: OSError) -> Problem:
    return Problem("SYSTEMD_UNREACHABLE", f"systemd did not answer: {error or 'time-out'}")
