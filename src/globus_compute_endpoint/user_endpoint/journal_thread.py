# SPDX-License-Identifier: Apache-2.0
"""The thread which does the journal's work: disks make those wait who write to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from globus_compute_endpoint.engines.marks import is_unmarked
from globus_compute_endpoint.user_endpoint.journal import Journal
from globus_compute_endpoint.user_endpoint.journal_disk import explained

__all__ = ["JournalJobs", "JournalMarks", "JournalThread"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 30.0  # seconds for a disk to take a batch job's id


class JournalThread:
    """Does what is asked of a journal, one thing after the other."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._queue: SimpleQueue[Callable[[Journal], None] | None] = SimpleQueue()
        # A daemon: a disk which never answers must not keep the process.
        self._thread = Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def ask(self, call: Callable[[Journal], T], answer: Callable[[T | Exception], None]) -> None:
        """Have ``answer`` called on the running loop with what came of ``call``."""
        loop = asyncio.get_running_loop()

        def work(journal: Journal) -> None:
            outcome: T | Exception
            try:
                outcome = call(journal)
            except Exception as error:  # noqa: BLE001  (told to who has asked)
                outcome = explained(error, journal)
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(answer, outcome)

        self._queue.put(work)

    def future(self, call: Callable[[Journal], T]) -> Future[T]:
        """Return the future of ``call``, from any thread."""
        future: Future[T] = Future()
        self._queue.put(partial(_fulfil, future, call))
        return future

    async def close(self, seconds: float) -> bool:
        """Close the journal when all is done; False where that takes too long."""
        closed = self.future(Journal.close)
        self._queue.put(None)
        try:
            await asyncio.wait_for(asyncio.wrap_future(closed), seconds)
        except TimeoutError:
            return False
        return True

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work(self._journal)


class JournalJobs:
    """A :class:`JobLog` in the journal. ``earlier`` are those which it held at the start."""

    def __init__(self, thread: JournalThread, earlier: tuple[str, ...]) -> None:
        self.earlier = earlier
        self._thread = thread

    def note(self, job_id: str) -> None:
        """See :class:`JobLog`."""
        try:
            self._thread.future(lambda journal: journal.note_job(job_id)).result(_PATIENCE)
        except (sqlite3.Error, TimeoutError) as error:
            raise OSError(f"the job {job_id} cannot be written to the journal: {error}") from error

    def forget(self, job_id: str) -> None:
        """See :class:`JobLog`."""
        self._thread.future(lambda journal: journal.forget_job(job_id))


class JournalMarks:
    """Has the journal tell the next life where start marks are not to be relied on."""

    def __init__(self, thread: JournalThread) -> None:
        self._thread = thread
        self._doubted = False

    def heed(self, packed: bytes) -> None:
        """Look whether the worker which made a result could mark its start."""
        if not self._doubted and is_unmarked(packed):
            log.error("A worker could not mark its start: what is lost counts as an attempt")
            self._doubted = True
            self._thread.ask(Journal.doubt_marks, self._noted)

    def _noted(self, outcome: Exception | None) -> None:
        self._doubted = outcome is None  # else the next such result tries again


def _fulfil(future: Future[T], call: Callable[[Journal], T], journal: Journal) -> None:
    try:
        future.set_result(call(journal))
    except Exception as error:  # noqa: BLE001  (raised where the future is awaited)
        future.set_exception(explained(error, journal))
