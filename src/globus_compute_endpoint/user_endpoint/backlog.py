# SPDX-License-Identifier: Apache-2.0
"""What waits in the journal for its turn in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Generic, TypeVar

from globus_compute_endpoint.user_endpoint.journal import Journal
from globus_compute_endpoint.user_endpoint.journal_thread import JournalThread

__all__ = ["Backlog", "Entry"]

Item = TypeVar("Item")

_SIZE = 64 * 2**20  # bytes in memory


class Entry:
    """A task which is not confirmed yet. ``size`` is its body's, or then its result's."""

    __slots__ = ("durable", "finished", "seq", "size", "task_id")

    def __init__(
        self, seq: int, task_id: str, size: int, *, finished: bool = False, durable: bool = False
    ) -> None:
        self.seq = seq
        self.task_id = task_id
        self.size = size
        self.finished = finished
        self.durable = durable


class Backlog(Generic[Item]):
    """A queue on disk before a bounded place in memory, for one at least and 64 MiB at most.

    ``fetch`` reads items from the journal; ``give`` is called on the loop with each, in order,
    ``failed`` where they cannot be read.
    """

    def __init__(
        self,
        limit: int,
        thread: JournalThread,
        fetch: Callable[[Journal, Sequence[int]], list[Item]],
        give: Callable[[Item], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._limit = limit
        self._thread = thread
        self._fetch = fetch
        self._give = give
        self._failed = failed
        self._waiting: deque[Entry] = deque()
        self._count = 0
        self._size = 0
        self._fetching = False
        self.closed = True

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def admits(self, size: int) -> bool:
        """Whether something of that size can have its turn without having waited."""
        return not self.closed and not self._waiting and self._has_room(size)

    def add(self, size: int) -> None:
        """Count something which is in memory."""
        self._count += 1
        self._size += size

    def remove(self, size: int) -> None:
        """Something in memory is done with."""
        self._count -= 1
        self._size -= size

    def append(self, entry: Entry) -> None:
        """Have it wait."""
        self._waiting.append(entry)

    def forget(self, entries: Collection[Entry]) -> None:
        """Have them wait no more, if they do."""
        if entries:
            self._waiting = deque(each for each in self._waiting if each not in entries)

    def feed(self) -> None:
        """Fetch as many as have room, once half of the room is free."""
        if self.closed or self._fetching or self._count > self._limit // 2:
            return
        taken: list[Entry] = []
        while self._waiting and self._waiting[0].durable and self._has_room(self._waiting[0].size):
            self.add(self._waiting[0].size)
            taken.append(self._waiting.popleft())
        if taken:
            self._fetching = True
            seqs = [entry.seq for entry in taken]
            self._thread.ask(
                lambda journal: self._fetch(journal, seqs), partial(self._fetched, taken)
            )

    def _fetched(self, taken: list[Entry], outcome: list[Item] | Exception) -> None:
        self._fetching = False
        if isinstance(outcome, Exception):
            for entry in reversed(taken):
                self.remove(entry.size)
                self._waiting.appendleft(entry)
            self._failed(outcome)
            return
        for item in outcome:
            self._give(item)
        self.feed()

    def _has_room(self, size: int) -> bool:
        return not self._count or (self._count < self._limit and self._size + size <= _SIZE)
