# SPDX-License-Identifier: Apache-2.0
"""The journal over one life of a user endpoint: opened and put in order, kept, closed."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from globus_compute_endpoint.engines.base import Engine
from globus_compute_endpoint.engines.marks import open_marks, read_marks, remove_marks
from globus_compute_endpoint.host.paths import JOURNAL_FILE
from globus_compute_endpoint.host.patience import in_thread
from globus_compute_endpoint.problem import cannot_write
from globus_compute_endpoint.user_endpoint.home import does_not_answer
from globus_compute_endpoint.user_endpoint.journal_disk import check_place
from globus_compute_endpoint.user_endpoint.journal_files import (
    mark,
    remove_journal,
    unmark,
    unusable,
)
from globus_compute_endpoint.user_endpoint.journal_thread import (
    JournalJobs,
    JournalMarks,
    JournalThread,
)
from globus_compute_endpoint.user_endpoint.recovery import Interruption, Recovered, recover
from globus_compute_endpoint.user_endpoint.salvage import open_sound

__all__ = ["Books", "Places", "open_books"]

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 30.0
_MARKS_TIMEOUT = 60.0  # seconds: they may be on a file server
_REMOVAL_TIMEOUT = 5.0


@dataclass(frozen=True)
class Places:
    """``state``: the journal's directory; ``marks``: the root of start marks.

    ``allow_volatile``: the journal may be in memory.
    """

    state: Path
    marks: Path
    allow_volatile: bool = False


@dataclass(frozen=True)
class Books:
    """What is known of tasks, jobs and start marks in this life."""

    places: Places
    thread: JournalThread
    recovered: Recovered
    jobs: JournalJobs
    marks: Path
    unmarked: JournalMarks

    async def close(
        self, *, left: int, written: bool, in_order: bool, reason: str, again: bool = False
    ) -> None:
        """Close the journal, and remove what nobody needs any more.

        ``left``: how many tasks are in it; ``written``: whether it knows of all that was done;
        ``in_order``: whether the broker has agreed to the connection's end, so that no task can be
        delivered again; ``reason``: why we end; ``again``: even without tasks here, there is
        another life to come.
        """
        if left:
            self.thread.future(lambda journal: journal.note_end(reason))
        jobs = self.thread.future(lambda journal: journal.jobs())
        if not await self.thread.close(_CLOSE_TIMEOUT):
            log.error("The task journal cannot be closed: its disk does not answer")
            return
        if left:
            log.info("%d tasks stay in the journal", left)
            return
        # A job which could not be cancelled is for the next life to try.
        if in_order and jobs.exception() is None and not jobs.result():
            remove_journal(self.places.state)
        elif not written:
            # Tasks are in there which have been done: start marks keep them from being run again.
            log.warning("The task journal lacks what became of some tasks, and is kept")
            return
        try:
            await in_thread(lambda: remove_marks(self.places.marks), _REMOVAL_TIMEOUT)
        except (OSError, TimeoutError) as error:  # the next life removes them
            log.warning("%s stays: %s", self.places.marks, error or "it does not answer")
        if not again:
            unmark(self.places.state)


async def open_books(
    places: Places,
    endpoint_id: str,
    engine: Engine,
    *,
    interruption: str | None,
    given_up: bool = False,
) -> Books:
    """Open the journal, and decide about what an earlier life has left in it.

    ``engine`` has yet to be started; ``interruption``: why that life ended, as far as our
    manager knows; ``given_up``: none of its tasks is to run any more.

    Raises:
        Problem: the journal cannot be used.
    """
    check_place(places.state, allow_volatile=places.allow_volatile)
    journal = open_sound(places.state, endpoint_id)
    mark(places.state)
    thread = JournalThread(journal)
    try:
        noted = await asyncio.wrap_future(thread.future(lambda journal: journal.jobs()))
        jobs = JournalJobs(thread, noted)
        await engine.cancel_earlier(jobs)  # first: as long as they run, they leave marks
        marks = await _fresh_marks(places.marks)  # a start which fails here has counted nothing
        begun = await _begun(places.marks)
        retries = engine.max_retries
        earlier = Interruption(endpoint_id, interruption, begun, retries, given_up=given_up)
        recovered = await asyncio.wrap_future(thread.future(partial(recover, earlier)))
    except sqlite3.Error as error:
        raise unusable(places.state / JOURNAL_FILE, error) from error
    await _remove_earlier_marks(places.marks, keep=marks)
    return Books(places, thread, recovered, jobs, marks, JournalMarks(thread))


async def _begun(root: Path) -> frozenset[str] | None:
    try:
        return await in_thread(lambda: read_marks(root), _MARKS_TIMEOUT)
    except TimeoutError as error:
        raise does_not_answer(root, _MARKS_TIMEOUT) from error
    except OSError as error:
        log.error("It cannot be told which tasks had begun: %s", error)
        return None


async def _fresh_marks(root: Path) -> Path:
    """Make room for the marks of this life."""
    try:
        return await in_thread(lambda: open_marks(root), _MARKS_TIMEOUT)
    except TimeoutError as error:
        raise does_not_answer(root, _MARKS_TIMEOUT) from error
    except OSError as error:
        raise cannot_write(root, error) from error


async def _remove_earlier_marks(root: Path, *, keep: Path) -> None:
    try:
        await in_thread(lambda: remove_marks(root, keep=keep), _MARKS_TIMEOUT)
    except (OSError, TimeoutError) as error:  # the next life counts them once more
        log.warning("%s keeps marks of earlier lives: %s", root, error or "it does not answer")
