# SPDX-License-Identifier: Apache-2.0
"""Which tasks are ours: from their arrival until the broker has confirmed their results.

Everything here happens on the event loop. What must be safe first goes to the journal in another
thread, many tasks in one transaction: while one is written, the next gathers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from globus_compute_endpoint.amqp import Delivery, acknowledge
from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.config.journal import JournalConfig
from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.backlog import Backlog, Entry
from globus_compute_endpoint.user_endpoint.journal import Journal
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_files import is_damage
from globus_compute_endpoint.user_endpoint.journal_thread import JournalThread
from globus_compute_endpoint.user_endpoint.recovery import Recovered

__all__ = ["Ledger", "Neighbours"]

log = logging.getLogger(__name__)

_AT_LEISURE = 0.02  # seconds for what nobody waits for to be written
_FORGET_EVERY = 5000  # confirmed tasks
_RESULTS = 512  # on their way to the broker; others wait in the journal


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Whom the ledger calls.

    ``run``: the task is safe and may begin. ``publish``: the result is safe and may go out.
    ``admit``: whether more tasks can be taken.
    """

    run: Callable[[TaskRequest], None]
    publish: Callable[[str, bytes], None]
    admit: Callable[[bool], None]
    damaged: Callable[[Exception], None] = lambda _: None


@dataclass(slots=True)
class _Turn:
    """What gathers for one transaction, and what is to be done after it.

    ``arrived`` has the task where it is to be run at once.
    """

    arrivals: Batch = field(default_factory=Batch)
    changes: Batch = field(default_factory=Batch)
    begun: dict[Entry, int] = field(default_factory=dict)  # and when; ns since the epoch
    deliveries: list[Delivery] = field(default_factory=list)
    arrived: list[tuple[Entry, TaskRequest | None]] = field(default_factory=list)
    results: list[tuple[Entry, bytes]] = field(default_factory=list)
    urgent: bool = False

    def __bool__(self) -> bool:
        return bool(self.arrivals or self.changes or self.begun or self.deliveries)


class Ledger:
    """Takes charge of tasks and of their results, so that none is run twice or lost.

    ``window``: how many tasks the engine is given at a time. The others wait in the journal, in
    order of arrival; so do results for which the broker has no time.
    """

    def __init__(
        self, thread: JournalThread, limits: JournalConfig, window: int, neighbours: Neighbours
    ) -> None:
        self._thread = thread
        self._limits = limits
        self._neighbours = neighbours
        self._open: dict[str, Entry] = {}
        self._histories: dict[str, tuple[str, ...]] = {}  # of the few that have one
        self._done: set[str] = set()
        self._last_seq = 0
        self._size = 0
        self._engine = Backlog(window, thread, Journal.requests, self._run, self._stumble)
        self._broker = Backlog(_RESULTS, thread, Journal.results, self._send, self._stumble)
        self._turn = _Turn()
        self._writing = False
        self._due: asyncio.Handle | None = None
        self._admitting = True
        self._confirmed = 0
        self._flushed: list[asyncio.Future[None]] = []
        self._backoff = Backoff(1, 60)
        #: Why the journal cannot be written, while that is so.
        self.trouble: str | None = None

    @property
    def outstanding(self) -> int:
        """How many tasks are admitted and not yet settled."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """How many of them are in the journal only."""
        return len(self._engine)

    def restore(self, recovered: Recovered) -> None:
        """Go on with what an earlier life has left. Nothing is begun before :meth:`release`."""
        self._done = set(recovered.done)
        self._last_seq = recovered.last_seq
        for task in recovered.open_tasks:
            finished = task.state is State.FINISHED
            entry = Entry(task.seq, task.task_id, task.size, finished=finished, durable=True)
            self._open[task.task_id] = entry
            self._size += task.size
            if task.history:
                self._histories[task.task_id] = task.history
            (self._broker if finished else self._engine).append(entry)

    def release(self) -> None:
        """Give the engine what waits, and the broker what is finished."""
        self._engine.closed = self._broker.closed = False
        self._engine.feed()
        self._broker.feed()
        self._check_limits()

    def hold(self) -> None:
        """Give the engine no more tasks, for good. Results still go out."""
        self._engine.closed = True

    def admit(self, task: TaskRequest, delivery: Delivery, answer: bytes | None = None) -> bool:
        """Take charge of a task, then have it run; not if it is here already, or was.

        Where ``answer`` is given, that is its result. Returns whether it is new.
        """
        self._turn.deliveries.append(delivery)
        self._write_soon()
        if task.task_id in self._open or task.task_id in self._done:
            return False
        if answer is None:
            self._add(task)
        else:
            self._add_answered(task, answer)
        self._check_limits()
        return True

    def started(self, task_id: str) -> None:
        """A task has begun."""
        entry = self._open.get(task_id)
        if entry is not None and not entry.finished:
            self._turn.begun[entry] = time.time_ns()
            self._write_at_leisure()

    def lost(self, task_id: str, reason: str) -> None:
        """An attempt was lost, and the engine tries again; ``reason`` belongs to its history."""
        entry = self._open.get(task_id)
        if entry is not None and not entry.finished:
            history = (*self._histories.get(task_id, ()), reason)
            self._histories[task_id] = history
            self._turn.begun.pop(entry, None)
            self._turn.changes.submit(entry.seq, task_id, history)
            self._write_soon()

    def store(self, task_id: str, result: bytes) -> None:
        """Take charge of a result, then have it published."""
        entry = self._open.get(task_id)
        if entry is None or entry.finished:
            return
        self._engine.remove(entry.size)
        self._size += len(result) - entry.size
        entry.size, entry.finished = len(result), True
        self._turn.changes.finish(entry.seq, task_id, result, self._turn.begun.pop(entry, None))
        if self.trouble is None:
            self._turn.results.append((entry, result))
            self._write_soon()
        else:
            self._publish(entry, result)
        self._engine.feed()

    def settle(self, task_id: str) -> None:
        """The broker has confirmed the result: the task is done."""
        if (entry := self._open.pop(task_id, None)) is None:
            return
        self._broker.remove(entry.size)
        self._size -= entry.size
        self._histories.pop(task_id, None)
        self._done.add(task_id)
        self._turn.changes.confirm(entry.seq, task_id)
        self._write_at_leisure()
        self._broker.feed()
        self._check_limits()
        self._confirmed += 1
        if self._confirmed % _FORGET_EVERY == 0:
            now = time.time_ns()
            self._thread.ask(lambda journal: journal.forget_old(now), self._forgotten)

    @property
    def is_written(self) -> bool:
        """Whether the journal knows all that we know."""
        return self.trouble is None and not self._turn and not self._writing

    async def flush(self) -> None:
        """Wait until all is written, unless the journal is in trouble."""
        while self.trouble is None and not self.is_written:
            written = asyncio.get_running_loop().create_future()
            self._flushed.append(written)
            self._write_soon()
            await written

    def _add(self, task: TaskRequest) -> None:
        entry = self._enter(task, len(task.body))
        at_once = self._engine.admits(entry.size)
        if at_once:
            self._engine.add(entry.size)
        else:
            self._engine.append(entry)
        state = State.SUBMITTED if at_once else State.RECEIVED
        self._turn.arrivals.receive(entry.seq, task, state)
        self._turn.arrived.append((entry, task if at_once else None))

    def _add_answered(self, task: TaskRequest, answer: bytes) -> None:
        entry = self._enter(task, len(answer))
        entry.finished = True
        self._turn.arrivals.receive(entry.seq, task, State.RECEIVED)
        self._turn.arrivals.finish(entry.seq, task.task_id, answer)
        self._turn.arrived.append((entry, None))
        self._turn.results.append((entry, answer))

    def _enter(self, task: TaskRequest, size: int) -> Entry:
        self._last_seq += 1
        entry = self._open[task.task_id] = Entry(self._last_seq, task.task_id, size)
        self._size += size
        return entry

    # Writing

    def _write_soon(self) -> None:
        """Write when this turn of the loop has ended, and with all that it brings."""
        if self._turn.urgent:
            return
        self._turn.urgent = True
        if not self._writing and self.trouble is None:
            self._plan(asyncio.get_running_loop().call_soon(self._write))

    def _write_at_leisure(self) -> None:
        if self._due is None and not self._writing and self.trouble is None:
            self._plan(asyncio.get_running_loop().call_later(_AT_LEISURE, self._write))

    def _plan(self, handle: asyncio.Handle) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = handle

    def _write(self) -> None:
        self._due = None
        if self._writing:
            return
        turn, self._turn = self._turn, _Turn()
        self._writing = True
        for entry, started in turn.begun.items():
            turn.changes.start(entry.seq, entry.task_id, started)
        if turn.arrivals or turn.changes or self.trouble is not None:
            probe = self.trouble is not None
            self._thread.ask(
                lambda journal: journal.write(turn.arrivals, turn.changes, probe=probe),
                partial(self._written, turn),
            )
        else:  # deliveries of tasks which are known
            self._written(turn, None)

    def _written(self, turn: _Turn, outcome: Exception | None) -> None:
        self._writing = False
        if outcome is not None:
            self._not_written(turn, outcome)
        else:
            self._recover()
            acknowledge(turn.deliveries)
            for entry, task in turn.arrived:
                entry.durable = True
                if task is not None and not self._engine.closed:
                    self._neighbours.run(task)
            for entry, result in turn.results:
                self._offer(entry, result)
            self._engine.feed()
            if self._turn.urgent:
                self._plan(asyncio.get_running_loop().call_soon(self._write))
            elif self._turn:
                self._write_at_leisure()
        for waiter in self._flushed:
            if not waiter.done():
                waiter.set_result(None)
        self._flushed.clear()

    # Trouble

    def _not_written(self, turn: _Turn, error: Exception) -> None:
        self._give_up(turn)
        turn.changes.extend(self._turn.changes)
        self._turn.changes = turn.changes
        self._stumble(error)

    def _stumble(self, error: Exception) -> None:
        """Take no more, publish what is in memory, and try again in a while."""
        if self.trouble is None:
            log.error(
                "The task journal cannot be used: %s. No more tasks are taken, results are still"
                " published; see to its disk, and to its owner's quota there. Trying again",
                error,
            )
            if is_damage(error):
                self._neighbours.damaged(error)
        self.trouble = str(error)
        self._check_limits()
        self._give_up(self._turn)
        self._turn = _Turn(changes=self._turn.changes, begun=self._turn.begun)
        self._plan(asyncio.get_running_loop().call_later(self._backoff.next(), self._write))

    def _give_up(self, turn: _Turn) -> None:
        """Do without the journal: messages go back to their queue, results out unwritten."""
        self._give_back(turn)
        for entry, result in turn.results:
            if entry.task_id in self._open:
                self._publish(entry, result)

    def _give_back(self, turn: _Turn) -> None:
        """Return messages to their queue, and forget their tasks."""
        for delivery in turn.deliveries:
            delivery.reject(requeue=True)
        for entry, task in turn.arrived:
            del self._open[entry.task_id]
            self._size -= entry.size
            if task is not None:
                self._engine.remove(entry.size)
        self._engine.forget({entry for entry, _ in turn.arrived})

    def _recover(self) -> None:
        if self.trouble is not None:
            log.warning("The task journal can be written again")
            self.trouble = None
            self._backoff.reset()
            self._broker.feed()
            self._check_limits()

    # Limits

    def _check_limits(self) -> None:
        tasks, size = len(self._open), self._size
        limits = self._limits
        if self._admitting:
            full = tasks >= limits.max_tasks or size >= limits.max_size
            admitting = not full and self.trouble is None
        else:
            low = tasks <= limits.max_tasks // 2 and size <= limits.max_size // 2
            admitting = low and self.trouble is None
        if admitting != self._admitting:
            self._admitting = admitting
            log.info(
                "Taking %s tasks: %d are in the journal, of %d bytes",
                "more" if admitting else "no more",
                tasks,
                size,
            )
            self._neighbours.admit(admitting)

    def _forgotten(self, outcome: list[str] | Exception) -> None:
        if isinstance(outcome, Exception):
            log.warning("Tasks which are done cannot be removed from the journal: %s", outcome)
        else:
            self._done.difference_update(outcome)

    # To engine and broker

    def _run(self, task: TaskRequest) -> None:
        """Begin a task which has waited in the journal."""
        if not self._engine.closed:
            self._turn.changes.submit(self._open[task.task_id].seq, task.task_id)
            self._neighbours.run(task)
            self._write_at_leisure()

    def _offer(self, entry: Entry, result: bytes) -> None:
        """Publish a result, or leave it in the journal for later."""
        if self._broker.admits(entry.size):
            self._publish(entry, result)
        else:
            self._broker.append(entry)

    def _publish(self, entry: Entry, result: bytes) -> None:
        self._broker.add(entry.size)
        self._neighbours.publish(entry.task_id, result)

    def _send(self, result: tuple[str, bytes]) -> None:
        """Publish a result which has waited in the journal."""
        self._neighbours.publish(*result)
