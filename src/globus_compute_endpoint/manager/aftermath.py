# SPDX-License-Identifier: Apache-2.0
"""What becomes of a user endpoint that has ended: told of, brought back, or given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from globus_compute_endpoint.manager.ends import End
from globus_compute_endpoint.manager.hosting import Hosting, UserEndpoint
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.manager.revival import Return, Revival
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Aftermath", "TellEnd", "as_problem"]

log = logging.getLogger(__name__)

TellEnd = Callable[[UUID, ProblemFields, bytes], None]


class Aftermath:
    """Decides by what a user endpoint has left; all under the lock of its id."""

    def __init__(
        self,
        records: StartRecords,
        hosting: Hosting,
        tell_end: TellEnd,
        *,
        lock: Callable[[UUID], asyncio.Lock],
        start: Callable[[StartRecord, str | None], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """``start`` gets a record and why the earlier one ended; it raises Problem or OSError.

        ``changed`` is called when :attr:`count` has.
        """
        self._records = records
        self._hosting = hosting
        self._tell_end = tell_end
        self._lock = lock
        self._start = start
        self._changed = changed
        self._revival = Revival(self._bring_back)
        self.closed = False

    @property
    def count(self) -> int:
        """How many are to be started again."""
        return self._revival.count

    def open(self) -> None:
        """From now on user endpoints can be started."""
        self._revival.open()

    async def close(self) -> None:
        """Start nobody again, and tell of no end: our successor sees to it."""
        self.closed = True
        await self._revival.close()

    def resume(self, record: StartRecord, reason: str | None) -> None:
        """Look what one has left which ended while there was no manager, and bring it back."""
        self._revival.plan(Return(record, reason))
        self._changed()

    def planned(self, endpoint_id: UUID) -> StartRecord | None:
        """From what one will be brought back; None where that is not planned."""
        return self._revival.planned(endpoint_id)

    def hasten(self, record: StartRecord) -> bool:
        """Bring one back at once, from a newer record; False where that was not planned."""
        return self._revival.hasten(record)

    async def see_to(self, endpoint: UserEndpoint) -> End:
        """Learn how it ended, and plan its return, or tell who has to know."""
        record = endpoint.record
        try:
            end = await endpoint.clean_up()
        except (Problem, OSError) as error:
            log.error("after the end of user endpoint %s: %s", endpoint.endpoint_id, error)
            end = End(clean=False, told=False, reason=str(as_problem(error)))
        finally:
            endpoint.let_go()
        _log_end(endpoint, end)
        control = None if endpoint.adopted else endpoint.control  # what it has told, we know
        self._revival.patience(endpoint.endpoint_id).lived(
            endpoint.seconds,
            has_run=control is None or control.has_run,
            progress=control is None or control.has_progressed,
        )
        if not end.told and await self._has_left_work(record):
            self._plan_return(record, end)
        else:
            self._forget(endpoint.endpoint_id)
            if end.problem and not self.closed:
                self._tell_end(endpoint.endpoint_id, end.problem, record.blob)
        return end

    def give_up(self, record: StartRecord, problem: Problem) -> None:
        """Start it no more, and have the services fail its tasks."""
        endpoint_id = record.start.endpoint_id
        self._revival.forget(endpoint_id)
        self._records.give_up(endpoint_id)
        log.error(
            "user endpoint %s is not started again: %s; what it left, its journal with the list of"
            " its batch jobs, is in %s",
            endpoint_id,
            problem,
            self._hosting.left_in(record),
            extra={"GC_ENDPOINT_ID": str(endpoint_id), "GC_PROBLEM": problem.code},
        )
        self._tell_end(endpoint_id, ProblemFields.of(problem), record.blob)

    async def _has_left_work(self, record: StartRecord) -> bool:
        try:
            return (await self._hosting.remains(record)).work
        except (Problem, OSError) as error:
            log.warning("what %s has left is not known: %s", record.start.endpoint_id, error)
            return True  # one that is started for nothing ends when it is idle

    def _plan_return(self, record: StartRecord, end: End) -> None:
        if self.closed:
            return  # our successor finds its record
        if verdict := self._revival.patience(record.start.endpoint_id).verdict:
            why = f"the user endpoint is given up: {verdict}; {end.reason or 'it was stopped'}"
            self.give_up(record, Problem("USER_ENDPOINT_DIED", why, end.hint))
        else:
            self._revival.plan(Return(record, end.interruption))

    async def _bring_back(self, endpoint_id: UUID) -> None:
        async with self._lock(endpoint_id):
            planned = self._revival.take(endpoint_id)
            if planned is None or self.closed:
                return
            try:
                await self._start_again(planned)
            except (Problem, OSError) as error:
                self._try_later(planned, as_problem(error))
            except Exception:
                log.exception("starting user endpoint %s again failed", endpoint_id)
                problem = Problem("START_FAILED", "the endpoint could not start it again")
                self._try_later(planned, problem)
        self._changed()

    def _try_later(self, planned: Return, problem: Problem) -> None:
        endpoint_id = planned.record.start.endpoint_id
        if self._revival.patience(endpoint_id).failed(problem):
            log.warning("cannot start user endpoint %s again yet: %s", endpoint_id, problem)
            self._revival.plan(planned)
        else:
            self.give_up(planned.record, problem)

    async def _start_again(self, planned: Return) -> None:
        record = planned.record
        remnant = await self._hosting.remains(record)
        if not remnant.work and not planned.commanded:
            log.info("user endpoint %s is gone and has left no work", record.start.endpoint_id)
            self._forget(record.start.endpoint_id)
        else:
            await self._start(record, planned.reason or remnant.reason)

    def _forget(self, endpoint_id: UUID) -> None:
        self._revival.forget(endpoint_id)
        self._records.remove(endpoint_id)


def as_problem(error: Problem | OSError) -> Problem:
    """Something to be told to the user, also of a bus which is away."""
    if isinstance(error, Problem):
        return error
    what = f"systemd did not answer: {error or 'time-out'}"
    return Problem("SYSTEMD_UNREACHABLE", what, exit_status=ExitStatus.TEMPORARY)


def _log_end(endpoint: UserEndpoint, end: End) -> None:
    log.log(
        logging.INFO if end.clean else logging.ERROR,
        "user endpoint %s, process %d, has ended%s%s",
        endpoint.endpoint_id,
        endpoint.pid,
        f": {end.reason}" if end.reason else "",
        "; it told its user why" if end.told else "",
        extra={"GC_ENDPOINT_ID": str(endpoint.endpoint_id)},
    )
