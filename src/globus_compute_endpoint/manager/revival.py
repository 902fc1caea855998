# SPDX-License-Identifier: Apache-2.0
"""User endpoints which ended with work left, on their way back: when, and for how long to try."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Patience", "Return", "Revival", "passes"]

log = logging.getLogger(__name__)

_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 60.0
_STEADY_AFTER_S = 60.0
_TRIES = 5
_TRIES_FOR_A_USER = 10  # five minutes: at boot a directory service may come late
_LIVES, _LIVES_WITHIN_S = 10, 3600.0  # in which no task came nearer to its end
_AT_ONCE = 16
_NOT_ITS_FAULT = (ExitStatus.TEMPORARY, ExitStatus.UNAVAILABLE)


def passes(problem: Problem) -> bool:
    """Whether what stands in the way of a start may be gone with time, and nobody's doing."""
    return problem.exit_status in _NOT_ITS_FAULT or problem.code == "LOCAL_USER_MISSING"


class Patience:
    """With one user endpoint: how often it was started in vain, and how long to wait next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        self._clock = clock
        self._in_vain = 0
        self._fruitless: deque[float] = deque(maxlen=_LIVES)  # when such lives ended

    def delay(self) -> float:
        """Seconds until the next start."""
        return self._backoff.next()

    def lived(self, seconds: float, *, has_run: bool, progress: bool) -> None:
        """Take note of a life: ``has_run`` if it ever took tasks, ``progress`` if any ended."""
        steady = seconds >= _STEADY_AFTER_S
        if steady:
            self._backoff.reset()
        self._in_vain = 0 if has_run or steady or progress else self._in_vain + 1
        if progress:
            self._fruitless.clear()
        else:
            self._fruitless.append(self._clock())

    def failed(self, problem: Problem) -> bool:
        """Take note of a start which came to nothing; whether it makes sense to try on."""
        if problem.exit_status in _NOT_ITS_FAULT:
            return True
        self._in_vain += 1
        if problem.code == "LOCAL_USER_MISSING":
            return self._in_vain < _TRIES_FOR_A_USER
        return problem.exit_status is not ExitStatus.NO_PERMISSION and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether it is no use: see :attr:`verdict`."""
        return self.verdict is not None

    @property
    def verdict(self) -> str | None:
        """Why it is no use to start it again; None as long as it may be."""
        if self._in_vain >= _TRIES:
            return "it was started several times, and died each time before it took tasks"
        lives = self._fruitless
        if len(lives) == _LIVES and lives[-1] - lives[0] <= _LIVES_WITHIN_S:
            return f"it died {_LIVES} times within an hour, and none of its tasks ended meanwhile"
        return None


@dataclass
class Return:
    """One on its way back. ``reason``: why the earlier one ended; ``None``: that was in order.

    ``commanded``: a start command has come meanwhile, so that it is started whatever it has left.
    """

    record: StartRecord
    reason: str | None
    commanded: bool = False
    at_once: asyncio.Event = field(default_factory=asyncio.Event)


class Revival:
    """Calls ``bring_back`` for each that was planned, when it is due; owns the timers."""

    def __init__(self, bring_back: Callable[[UUID], Awaitable[None]]) -> None:
        self._bring_back = bring_back
        self._planned: dict[UUID, Return] = {}
        self._patience: dict[UUID, Patience] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @property
    def count(self) -> int:
        """How many are on their way."""
        return len(self._planned)

    def open(self) -> None:
        """From now on user endpoints can be started."""
        self._open.set()

    def patience(self, endpoint_id: UUID) -> Patience:
        """That with one user endpoint, until it is forgotten."""
        return self._patience.setdefault(endpoint_id, Patience())

    def plan(self, planned: Return) -> None:
        """Have it brought back after a while."""
        endpoint_id = planned.record.start.endpoint_id
        planned.at_once.clear()
        self._planned[endpoint_id] = planned
        task = asyncio.create_task(self._when_due(endpoint_id, planned))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hasten(self, record: StartRecord) -> bool:
        """Bring it back at once, from a newer record; False where it is not on its way."""
        planned = self._planned.get(record.start.endpoint_id)
        if planned is None:
            return False
        planned.record = record
        planned.commanded = True
        planned.at_once.set()
        return True

    def planned(self, endpoint_id: UUID) -> StartRecord | None:
        """From what it will be brought back; None where it is not on its way."""
        planned = self._planned.get(endpoint_id)
        return planned.record if planned else None

    def take(self, endpoint_id: UUID) -> Return | None:
        """Whom to bring back now; it is no longer planned then."""
        return self._planned.pop(endpoint_id, None)

    def forget(self, endpoint_id: UUID) -> None:
        """It has ended for good."""
        self._planned.pop(endpoint_id, None)
        self._patience.pop(endpoint_id, None)

    async def close(self) -> None:
        """Bring back nobody any more; start records stay for our successor."""
        self._planned.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _when_due(self, endpoint_id: UUID, planned: Return) -> None:
        delay = self.patience(endpoint_id).delay()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await planned.at_once.wait()
        await self._open.wait()
        async with self._turns:
            await self._bring_back(endpoint_id)
