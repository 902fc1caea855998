# SPDX-License-Identifier: Apache-2.0
"""When a user endpoint which ended with work left is started again, and when no more."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from globus_compute_endpoint.manager.protocol import Start
from globus_compute_endpoint.manager.revival import Patience, Return, Revival
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem

ID = UUID(int=7)


def record(blob: bytes = b"{}", uid: int | None = 1000) -> StartRecord:
    start = Start(number=1, endpoint_id=ID, name="uep.a.b", effective_identity=ID, identities=())
    return StartRecord(start, blob, uid, "boot")


def test_delays_double_up_to_a_minute() -> None:
    patience = Patience()
    for whole in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        assert whole / 2 <= patience.delay() <= whole


def test_a_minute_of_life_begins_the_delays_anew() -> None:
    patience = Patience()
    for _ in range(6):
        patience.delay()
    patience.lived(59, has_run=True, progress=True)
    assert patience.delay() > 30 / 2
    patience.lived(60, has_run=True, progress=True)
    assert patience.delay() <= 1


def test_it_is_over_after_five_lives_without_a_task_in_a_row() -> None:
    patience = Patience()
    for has_run in (False, False, False, False, True, False, False, False, False):
        patience.lived(3, has_run=has_run, progress=False)
        assert not patience.is_over
    patience.lived(3, has_run=False, progress=False)
    assert patience.is_over
    patience.lived(3, has_run=False, progress=True)
    assert not patience.is_over, "an attempt was counted: that happens to no task for ever"


@pytest.mark.parametrize(
    ("lives", "minutes", "fruitful", "is_over"),
    [
        (9, 1, (), False),
        (10, 1, (), True),
        (100, 7, (), False),
        (18, 1, (8,), False),
        (19, 1, (8,), True),
    ],
)
def test_it_is_over_after_ten_lives_within_an_hour_in_which_no_task_ended(
    lives: int, minutes: int, fruitful: tuple[int, ...], is_over: bool
) -> None:
    times = iter(range(0, 1_000_000, 60 * minutes))
    patience = Patience(lambda: next(times))
    for number in range(lives):
        assert not patience.is_over
        patience.lived(61, has_run=True, progress=number in fruitful)
    assert patience.is_over == is_over
    if is_over:
        assert "10 times within an hour" in (patience.verdict or "")


@pytest.mark.parametrize(
    ("code", "status", "tries"),
    [
        ("IDENTITY_NOT_MAPPED", ExitStatus.NO_PERMISSION, 0),
        ("SYSTEMD_REFUSED", ExitStatus.INTERNAL, 4),
        ("LOCAL_USER_MISSING", ExitStatus.NO_PERMISSION, 9),
        ("SPAWNER_UNREACHABLE", ExitStatus.TEMPORARY, 100),
        ("TOO_MANY_USER_ENDPOINTS", ExitStatus.UNAVAILABLE, 100),
    ],
)
def test_what_is_tried_again(code: str, status: ExitStatus, tries: int) -> None:
    patience = Patience()
    problem = Problem(code, "", exit_status=status)
    tried = 0
    while tried < 100 and patience.failed(problem):
        tried += 1
    assert tried == tries


class Brought:
    """What the revival's owner does: takes them, and notes when."""

    def __init__(self) -> None:
        self.revival = Revival(self._bring)
        self.taken: asyncio.Queue[tuple[Return | None, float]] = asyncio.Queue()

    async def _bring(self, endpoint_id: UUID) -> None:
        now = asyncio.get_running_loop().time()
        self.taken.put_nowait((self.revival.take(endpoint_id), now))

    async def next(self) -> tuple[Return | None, float]:
        async with asyncio.timeout(5):
            return await self.taken.get()


def test_it_comes_when_it_is_due_and_not_before_we_have_an_id() -> None:
    async def scenario() -> None:
        brought = Brought()
        began = asyncio.get_running_loop().time()
        brought.revival.plan(Return(record(), "it was killed"))
        await asyncio.sleep(1.1)
        assert brought.taken.empty(), "nobody can be started yet"
        brought.revival.open()
        planned, _ = await brought.next()
        assert planned and planned.reason == "it was killed" and not planned.commanded
        brought.revival.plan(planned)
        _, again = await brought.next()
        assert again - began > 1.1 + 1
        assert brought.revival.count == 0

    asyncio.run(scenario())


def test_a_command_hastens_it_with_its_own_credentials() -> None:
    async def scenario() -> None:
        brought = Brought()
        brought.revival.open()
        assert not brought.revival.hasten(record())
        brought.revival.plan(Return(record(), "it was killed"))
        began = asyncio.get_running_loop().time()
        assert brought.revival.planned(ID) == record()
        assert brought.revival.hasten(record(b'{"new": 1}'))
        planned, when = await brought.next()
        assert when - began < 0.4
        assert planned and planned.commanded and planned.reason == "it was killed"
        assert planned.record == record(b'{"new": 1}')
        assert brought.revival.planned(ID) is None
        brought.revival.plan(planned)  # the start came to nothing
        _, again = await brought.next()
        assert again - when > 0.9

    asyncio.run(scenario())


def test_nobody_comes_after_the_close_or_once_forgotten() -> None:
    async def scenario() -> None:
        brought = Brought()
        brought.revival.open()
        brought.revival.plan(Return(record(), None))
        brought.revival.forget(ID)
        assert await brought.next() and brought.revival.count == 0
        brought.revival.plan(Return(record(), None))
        await brought.revival.close()
        await asyncio.sleep(1.1)
        assert brought.taken.empty()

    asyncio.run(scenario())
