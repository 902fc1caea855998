# SPDX-License-Identifier: Apache-2.0
"""All user endpoints of one manager: who may have one, which run, and what to do at their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.aftermath import Aftermath, TellEnd, as_problem
from globus_compute_endpoint.manager.ends import End
from globus_compute_endpoint.manager.hosting import Approved, Hosting, UserEndpoint
from globus_compute_endpoint.manager.launching import Past
from globus_compute_endpoint.manager.revival import passes
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

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
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``changed`` is called when :meth:`summary` has."""
        self.settings = settings
        self._records = records
        self._hosting = hosting
        self._changed = changed
        self._aftermath = Aftermath(
            records, hosting, tell_end, lock=self._lock, start=self._start_new, changed=changed
        )
        self._running: dict[UUID, UserEndpoint] = {}
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._starting: dict[UUID, int] = {}  # the uids
        self._last_command: dict[UUID, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._manager_id: UUID | None = None

    @property
    def stopping(self) -> bool:
        """Whether nobody is started any more."""
        return self._aftermath.closed

    @property
    def count(self) -> int:
        """How many user endpoints run."""
        return len(self._running)

    @property
    def summary(self) -> str:
        """How they fare, in words."""
        controls = [endpoint.control for endpoint in self._running.values()]
        silent = sum(1 for each in controls if each and each.last.state == "starting")
        parts = [f"user endpoints running: {self.count}"]
        if silent:
            parts.append(f"{silent} of them not connected yet")
        if self._aftermath.count:
            parts.append(f"to be started again: {self._aftermath.count}")
        return ", ".join(parts)

    def registered(self, manager_id: UUID) -> None:
        """We have an id: from now on user endpoints can be started."""
        self._manager_id = manager_id
        self._aftermath.open()

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
                if planned := self._aftermath.planned(endpoint_id):
                    await self._hasten(planned, record)
                else:
                    await self._start_commanded(record)
            self._last_command[endpoint_id] = time.monotonic()

    def adopt(self, endpoint: UserEndpoint) -> None:
        """Supervise a user endpoint which an earlier instance of this manager started."""
        endpoint.adopted = True
        self._has_begun(endpoint)
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

    def resume(self, record: StartRecord, reason: str | None) -> None:
        """See to what a user endpoint has left which ended while there was no manager."""
        self._aftermath.resume(record, reason)

    async def close(self) -> None:
        """Start nobody again; what runs goes on."""
        await self._aftermath.close()

    async def stop_all(self) -> None:
        """Ask all to finish up, then to end; kill what still runs.

        What did not come to its end stays in the journals of the user endpoints.
        """
        await self.close()
        endpoints = self.running
        for endpoint in endpoints:
            endpoint.ask_to_finish()
        await _all_ended(endpoints, self.settings.config.finish_up_s)
        endpoints = [endpoint for endpoint in endpoints if endpoint.is_alive()]
        await _try_all(endpoint.ask_to_end() for endpoint in endpoints)
        await _all_ended(endpoints, _STOP_TIMEOUT_S)
        await _try_all(endpoint.kill() for endpoint in endpoints if endpoint.is_alive())
        await _all_ended(endpoints, _KILL_TIMEOUT_S)
        await _try_all(_of(task) for task in self._tasks)

    def died(self, endpoint: UserEndpoint) -> None:
        """Clean up after a user endpoint whose process has ended."""
        task = asyncio.create_task(self._see_to_death(endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self, running: UserEndpoint, record: StartRecord) -> None:
        """The right to use it is checked anew: the blob decides where its tasks come from."""
        _check_tenant(await self._hosting.authorize(record), running.uid)
        running.record = _renewed(running.record, record)
        self._records.write(running.record)
        if running.control:
            running.control.renew_credentials(record.blob)

    async def _hasten(self, planned: StartRecord, record: StartRecord) -> None:
        """Bring one back at once, by fresh credentials which outlive us.

        What may pass is no answer to a command: the services would fail tasks which are to run.
        """
        record = _renewed(planned, record)
        try:
            _check_tenant(await self._hosting.authorize(record), planned.uid)
            self._records.write(record)
        except Problem as problem:
            if not passes(problem):
                raise
            log.warning("%s waits to be started again: %s", record.start.endpoint_id, problem)
        self._aftermath.hasten(record)

    async def _start_commanded(self, record: StartRecord) -> None:
        try:
            await self._start_new(record, None)
        except BaseException:
            self._records.remove(record.start.endpoint_id)
            raise

    async def _start_new(self, record: StartRecord, interruption: str | None) -> None:
        assert self._manager_id is not None  # a gateway that sends starts has registered
        start = record.start
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                approved = await self._hosting.authorize(record)
                user = approved.user
                self._check_numbers(user)
                _check_same_user(record, user)
                self._starting[start.endpoint_id] = user.uid
                record = replace(record, uid=user.uid, boot=await self._hosting.boot())
                self._records.write(record)
                past = Past(interruption, self._records.was_given_up(start.endpoint_id))
                endpoint = await self._hosting.start(
                    replace(approved, record=record), self._manager_id, self.died, past
                )
                self._records.take_up_again(start.endpoint_id)
        except TimeoutError:
            raise Problem(
                "START_TIMEOUT",
                f"the user endpoint did not start within {_START_TIMEOUT_S:.0f} s",
                "try again; if it persists, tell the endpoint's administrator",
                ExitStatus.TEMPORARY,
            ) from None
        finally:
            self._starting.pop(start.endpoint_id, None)
        self._has_begun(endpoint)
        log.info(
            "started user endpoint %s as %s (uid %d), process %d, for %s",
            start.endpoint_id,
            user.uname,
            user.uid,
            endpoint.pid,
            approved.identity.username,
            extra=approved.fields(),
        )

    def _has_begun(self, endpoint: UserEndpoint) -> None:
        self._running[endpoint.endpoint_id] = endpoint
        if endpoint.control:
            endpoint.control.changed = self._changed
        self._changed()

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
            end = await self._bury(endpoint)
            if not commanded_lately or self._aftermath.hasten(endpoint.record) or not end.clean:
                return
            try:
                await self._start_commanded(endpoint.record)
            except (Problem, OSError) as error:
                self._aftermath.give_up(endpoint.record, as_problem(error))

    async def _bury(self, endpoint: UserEndpoint) -> End:
        del self._running[endpoint.endpoint_id]
        try:
            return await self._aftermath.see_to(endpoint)
        finally:
            self._changed()

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


async def _of(task: asyncio.Task[None]) -> None:
    await task


async def _all_ended(endpoints: list[UserEndpoint], seconds: float) -> None:
    """Return when all have ended, or after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(endpoint.wait() for endpoint in endpoints))


def _renewed(earlier: StartRecord, record: StartRecord) -> StartRecord:
    """A newer command for the same user endpoint."""
    return replace(record, uid=earlier.uid, boot=earlier.boot)


def _check_tenant(approved: Approved, uid: int | None) -> None:
    """It stays that of the local user as whom it was started."""
    if uid not in (None, approved.user.uid):
        raise Problem(
            "USER_ENDPOINT_OF_ANOTHER",
            "this user endpoint is another local user's",
            "stop it first, or wait until it is idle",
            ExitStatus.NO_PERMISSION,
        )


def _check_same_user(record: StartRecord, user: LocalUser) -> None:
    """What it has left belongs to whom it ran as."""
    if record.uid not in (None, user.uid):
        raise Problem(
            "MAPPED_TO_ANOTHER",
            f"you are mapped to another local user now ('{user.uname}'): what your user endpoint"
            " had not finished is given up",
            "submit it again",
            ExitStatus.NO_PERMISSION,
        )
