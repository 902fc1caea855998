# SPDX-License-Identifier: Apache-2.0
"""The journal over one life of a user endpoint: opened and put in order, kept, closed."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from globus_compute_endpoint.engines.marks import open_marks, read_marks, remove_marks
from globus_compute_endpoint.host.patience import in_thread
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write
from globus_compute_endpoint.user_endpoint.journal_files import (
    mark,
    open_journal,
    remove_journal,
    unmark,
)
from globus_compute_endpoint.user_endpoint.journal_thread import JournalJobs, JournalThread
from globus_compute_endpoint.user_endpoint.recovery import Interruption, Recovered, recover

__all__ = ["Books", "Places", "open_books"]

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 30.0
_MARKS_TIMEOUT = 60.0  # seconds: they may be on a file server


@dataclass(frozen=True)
class Places:
    """``state``: the journal's directory, on local disk; ``marks``: the root of start marks."""

    state: Path
    marks: Path


@dataclass(frozen=True)
class Books:
    """What is known of tasks, jobs and start marks in this life."""

    places: Places
    thread: JournalThread
    recovered: Recovered
    jobs: JournalJobs
    marks: Path

    async def close(self, *, left: int, in_order: bool, reason: str) -> None:
        """Close the journal, and remove what nobody needs any more.

        ``left``: how many tasks are in it; ``in_order``: whether the broker has agreed to the
        connection's end, so that no task can be delivered again; ``reason``: why we end.
        """
        end = reason if left else None
        self.thread.future(lambda journal: journal.note_end(end))
        if not await self.thread.close(_CLOSE_TIMEOUT):
            log.error("The task journal cannot be closed: its disk does not answer")
            return
        if left:
            log.info("%d tasks stay in the journal", left)
            return
        remove_marks(self.places.marks)
        unmark(self.places.state)
        if in_order:
            remove_journal(self.places.state)


async def open_books(
    places: Places, endpoint_id: str, *, max_retries: int, interruption: str | None
) -> Books:
    """Open the journal, and decide about what an earlier life has left in it.

    ``interruption``: why that one ended, as far as our manager knows.

    Raises:
        Problem: the journal cannot be used.
    """
    journal = open_journal(places.state)
    mark(places.state)
    begun = await _begun(places.marks)
    thread = JournalThread(journal)
    earlier = Interruption(endpoint_id, interruption, begun, max_retries)
    try:
        recovered = await asyncio.wrap_future(thread.future(partial(recover, earlier)))
    except sqlite3.Error as error:
        raise Problem(
            "JOURNAL_UNUSABLE",
            f"the task journal in {places.state} cannot be read or written: {error}",
            "see that its disk is not full; a damaged journal can be moved away, with its tasks",
            ExitStatus.CANNOT_CREATE,
        ) from error
    try:
        marks = open_marks(places.marks)
    except OSError as error:
        raise cannot_write(places.marks, error) from error
    remove_marks(places.marks, keep=marks)
    return Books(places, thread, recovered, JournalJobs(thread, recovered.jobs), marks)


async def _begun(root: Path) -> frozenset[str] | None:
    try:
        return await in_thread(lambda: read_marks(root), _MARKS_TIMEOUT)
    except (OSError, TimeoutError) as error:
        log.error("It cannot be told which tasks had begun: %s", error or f"{root} does not answer")
        return None
