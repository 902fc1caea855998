# SPDX-License-Identifier: Apache-2.0
"""No task is lost or run twice, whatever the journal and the broker do."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from globus_compute_endpoint.amqp import Delivery
from globus_compute_endpoint.config.journal import JournalConfig
from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.heartbeat import IdleWatch
from globus_compute_endpoint.user_endpoint.journal import Journal
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_files import open_journal
from globus_compute_endpoint.user_endpoint.journal_thread import JournalMarks, JournalThread
from globus_compute_endpoint.user_endpoint.ledger import Ledger, Neighbours
from globus_compute_endpoint.user_endpoint.recovery import Interruption, Recovered, recover
from globus_compute_endpoint.worker import task as worker


class Events:
    """What happened, in order; also a channel's part of it."""

    is_open = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def basic_ack(self, tag: int, *, multiple: bool) -> None:
        self.seen.append(("ack", tag))

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        self.seen.append(("requeue", tag))

    def run(self, task: TaskRequest) -> None:
        self.seen.append(("run", task.task_id))

    def publish(self, task_id: str, result: bytes) -> None:
        self.seen.append(("publish", task_id))

    def admit(self, more: bool) -> None:
        self.seen.append(("admit", more))

    def of(self, kind: str) -> list[Any]:
        return [what for each, what in self.seen if each == kind]

    def has(self, kind: str, what: Any) -> bool:
        return what in self.of(kind)


class WatchedJournal(Journal):
    """Tells when it has written something, and fails as long as it is told to."""

    def __init__(self, database: sqlite3.Connection, events: Events) -> None:
        super().__init__(database)
        self._events = events
        self.failing = False

    def write(self, *batches: Batch, probe: bool = False) -> None:
        if self.failing:
            raise sqlite3.OperationalError("database or disk is full")
        super().write(*batches, probe=probe)
        self._events.seen.append(("written", sum(len(each.rows) for each in batches)))


class Bench:
    """A ledger on a real journal, among neighbours who write down what is asked of them."""

    def __init__(self, directory: Path, window: int = 8, **limits: Any) -> None:
        self.events = Events()
        self.journal = WatchedJournal(open_journal(directory)._database, self.events)
        self.thread = JournalThread(self.journal)
        events = self.events
        self.ledger = Ledger(
            self.thread,
            JournalConfig(**limits),
            window,
            Neighbours(events.run, events.publish, events.admit),
        )
        self.tags = 0

    def deliver(self, *task_ids: str, body: bytes = b"body") -> None:
        for task_id in task_ids:
            self.tags += 1
            delivery = Delivery(body, None, False, self.events, self.tags)
            self.ledger.admit(TaskRequest(task_id, body, 1), delivery)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  (of what it waits for it is not told)
                await asyncio.sleep(0.001)


def ids(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


def on_a_bench(
    directory: Path, story: Callable[[Bench], Awaitable[None]], **options: Any
) -> list[tuple[str, Any]]:
    async def go() -> list[tuple[str, Any]]:
        bench = Bench(directory, **options)
        bench.ledger.restore(Recovered([], [], 0))
        bench.ledger.release()
        await story(bench)
        await bench.thread.close(10)
        return bench.events.seen

    return asyncio.run(go())


def what_is_left(
    directory: Path, max_retries: int = 0, begun: tuple[str, ...] = (), *, given_up: bool = False
) -> Recovered:
    journal = open_journal(directory)
    past = Interruption(str(uuid4()), "it was killed", begun, max_retries, given_up)
    try:
        return recover(past, journal)
    finally:
        journal.close()


def test_a_task_is_acknowledged_and_run_once_it_is_written_and_many_at_a_time(tmp_path: Path):
    tasks = ids(5)

    async def story(bench: Bench) -> None:
        bench.deliver(*tasks)
        assert bench.events.seen == []
        await bench.until(lambda: len(bench.events.of("run")) == 5)

    seen = on_a_bench(tmp_path, story)
    assert seen == [("written", 5), ("ack", 5), *(("run", each) for each in tasks)]


def test_a_result_is_written_then_published_and_forgotten_when_it_is_confirmed(tmp_path: Path):
    (task_id,) = ids(1)

    async def story(bench: Bench) -> None:
        bench.deliver(task_id)
        await bench.ledger.flush()
        bench.ledger.started(task_id)
        bench.ledger.store(task_id, b"result")
        assert bench.events.of("publish") == []
        await bench.until(lambda: bench.events.of("publish") == [task_id])
        assert bench.ledger.outstanding == 1
        bench.ledger.settle(task_id)
        assert bench.ledger.outstanding == 0
        await bench.ledger.flush()

    on_a_bench(tmp_path, story)
    left = what_is_left(tmp_path)
    assert (left.open_tasks, left.done) == ([], [task_id])


def test_a_redelivery_runs_nothing_twice_and_is_acknowledged(tmp_path: Path):
    (task_id,) = ids(1)

    async def story(bench: Bench) -> None:
        bench.deliver(task_id, task_id)
        await bench.until(lambda: bench.events.of("ack") == [2])
        bench.ledger.store(task_id, b"result")
        bench.deliver(task_id)
        await bench.until(lambda: bench.events.of("ack") == [2, 3])
        bench.ledger.settle(task_id)
        bench.deliver(task_id)
        await bench.until(lambda: bench.events.of("ack") == [2, 3, 4])

    assert [each for each in on_a_bench(tmp_path, story) if each[0] == "run"] == [("run", task_id)]


def test_the_engine_has_a_window_and_the_rest_waits_in_order(tmp_path: Path):
    tasks = ids(50)

    async def story(bench: Bench) -> None:
        bench.deliver(*tasks)
        await bench.until(lambda: bench.events.of("ack") == [50])
        assert bench.events.of("run") == tasks[:8]
        assert bench.ledger.waiting == 42
        for done, task_id in enumerate(tasks, 1):
            await bench.until(partial(bench.events.has, "run", task_id))
            assert len(bench.events.of("run")) - done <= 8
            bench.ledger.store(task_id, b"result")
        await bench.until(lambda: len(bench.events.of("publish")) == 50)
        assert bench.events.of("run") == tasks

    on_a_bench(tmp_path, story)


@pytest.mark.parametrize(
    ("limits", "body"),
    [({"max_tasks": 10}, b"small"), ({"max_size": 10_000}, bytes(1000))],
    ids=["tasks", "bytes"],
)
def test_at_its_limits_it_takes_no_more_until_half_is_done(
    tmp_path: Path, limits: dict[str, Any], body: bytes
):
    tasks = ids(10)

    async def story(bench: Bench) -> None:
        bench.deliver(*tasks[:9], body=body)
        assert bench.events.of("admit") == []
        bench.deliver(tasks[9], body=body)
        assert bench.events.of("admit") == [False]
        for done, task_id in enumerate(tasks[:5], 1):
            await bench.until(partial(bench.events.has, "run", task_id))
            bench.ledger.store(task_id, b"")
            await bench.until(partial(bench.events.has, "publish", task_id))
            bench.ledger.settle(task_id)
            assert bench.events.of("admit") == ([False] if done < 5 else [False, True])

    on_a_bench(tmp_path, story, **limits)


def test_where_the_disk_is_full_nothing_is_acknowledged_and_results_go_out(tmp_path: Path):
    early, late = ids(2)

    async def story(bench: Bench) -> None:
        bench.deliver(early)
        await bench.until(lambda: bench.events.of("run") == [early])
        bench.journal.failing = True
        bench.ledger.store(early, b"result")
        bench.deliver(late)
        await bench.until(lambda: bench.events.of("requeue") == [2])
        assert bench.events.of("admit") == [False]
        assert bench.events.of("publish") == [early]
        assert bench.ledger.trouble == "database or disk is full"
        bench.ledger.settle(early)
        bench.journal.failing = False
        await bench.until(lambda: bench.events.of("admit") == [False, True])
        bench.deliver(late)
        await bench.until(lambda: bench.events.of("run") == [early, late])
        assert bench.events.of("ack") == [1, 3]

    on_a_bench(tmp_path, story)
    left = what_is_left(tmp_path)
    assert [task.task_id for task in left.open_tasks] == [late]
    assert left.done == [early]


def test_what_had_begun_has_failed_or_is_tried_again_and_the_rest_runs(tmp_path: Path):
    told, marked, unstarted, finished = tasks = ids(4)

    async def story(bench: Bench) -> None:
        bench.deliver(*tasks)
        await bench.ledger.flush()
        bench.ledger.started(told)
        bench.ledger.store(finished, b"result")
        await bench.ledger.flush()

    on_a_bench(tmp_path, story)
    again = what_is_left(tmp_path, max_retries=1, begun=(marked,))
    by_id = {task.task_id: task for task in again.open_tasks}
    assert {task_id: len(task.history) for task_id, task in by_id.items()} == {
        told: 1,
        marked: 1,
        unstarted: 0,
        finished: 0,
    }
    assert by_id[told].state is State.SUBMITTED
    assert by_id[told].history[0].endswith("it was killed")
    failed = what_is_left(tmp_path, begun=(told,))
    states = {task.task_id: task.state for task in failed.open_tasks}
    assert states[told] is states[finished] is State.FINISHED
    assert states[marked] is states[unstarted] is State.SUBMITTED
    journal = open_journal(tmp_path)
    results = dict(journal.results([task.seq for task in failed.open_tasks]))
    journal.close()
    assert b"TaskInterrupted" in results[told]
    assert b"tried 2 times" in results[told]
    assert results[finished] == b"result"


def test_where_not_every_start_was_marked_the_next_life_alone_trusts_no_marks(tmp_path: Path):
    unmarked, unseen, waiting = ids(3)

    async def story(bench: Bench) -> None:
        bench.deliver(unmarked, unseen)
        await bench.ledger.flush()
        packed = worker.failure(
            unmarked, "X", "text", {"endpoint_id": unmarked, "unmarked": "/nowhere: No space"}
        )
        marks = JournalMarks(bench.thread)
        marks.heed(b"result")
        marks.heed(packed)
        bench.ledger.store(unmarked, packed)
        bench.ledger.hold()
        bench.deliver(waiting)
        await bench.ledger.flush()

    on_a_bench(tmp_path, story, window=2)
    first = what_is_left(tmp_path, max_retries=1)
    assert [(each.task_id, each.state) for each in first.open_tasks] == [
        (unmarked, State.FINISHED),
        (unseen, State.SUBMITTED),
        (waiting, State.RECEIVED),
    ]
    assert [len(each.history) for each in first.open_tasks] == [0, 1, 0]
    later = what_is_left(tmp_path, max_retries=1)
    assert [len(each.history) for each in later.open_tasks] == [0, 1, 0]


def test_idle_soft_counts_from_the_last_movement():
    watch = IdleWatch(soft=2, hard=4)
    assert watch.beat(0, 0) is None
    assert watch.beat(0, 0) is None
    assert watch.beat(1, 1) is None
    assert watch.beat(0, 2) is None
    assert watch.beat(0, 2) is None
    assert watch.beat(0, 2) == "idle for 2 heartbeats"


def test_idle_hard_ends_even_with_tasks_but_only_with_soft():
    watch = IdleWatch(soft=1, hard=3)
    assert [watch.beat(5, 0) for _ in range(3)] == [None, None, None]
    assert "nothing moved" in str(watch.beat(5, 0))
    never = IdleWatch(soft=0, hard=1)
    assert [never.beat(0, 0) for _ in range(9)] == [None] * 9


def test_of_one_which_was_given_up_each_task_gets_a_result_and_none_runs(tmp_path: Path):
    begun, _ = tasks = ids(2)

    async def story(bench: Bench) -> None:
        bench.deliver(*tasks)
        await bench.ledger.flush()
        bench.ledger.started(begun)
        await bench.ledger.flush()

    on_a_bench(tmp_path, story)
    left = what_is_left(tmp_path, max_retries=5, given_up=True)
    assert [task.state for task in left.open_tasks] == [State.FINISHED, State.FINISHED]
    journal = open_journal(tmp_path)
    for _, result in journal.results([task.seq for task in left.open_tasks]):
        assert b"UserEndpointGivenUp" in result
    journal.close()
