# SPDX-License-Identifier: Apache-2.0
"""The task journal: what a user endpoint has taken charge of, in an SQLite file on local disk.

This is the file and what may be asked of it; everything here blocks. Which task is where, and
when, is decided in :mod:`user_endpoint.ledger`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_rows import (
    damage,
    task_of,
    unpacked_history,
    unpacked_request,
)

__all__ = [
    "SCHEMA_VERSION",
    "Journal",
    "OpenTask",
    "prepare",
]

Found = TypeVar("Found")

SCHEMA_VERSION = 1

TOMBSTONES = 100_000
TOMBSTONE_AGE = 24 * 3600  # seconds

# A task's content is its body until it is finished, then its result. Ids are looked up in
# memory: an index of random ids would cost a page of disk for each task.
_SCHEMA = f"""
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, -- in order of arrival
    task_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    received INTEGER, submitted INTEGER, started INTEGER, finished INTEGER, confirmed INTEGER,
    size INTEGER, -- of its content, in bytes
    history TEXT, -- why earlier attempts were lost: a list in JSON
    request TEXT -- what else it was sent with, in JSON
);
CREATE TABLE contents (seq INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, noted INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
"""  # times are in ns since the epoch

_COLUMNS = 11
# What is None stays as it was. Of a task which is done only its id and times are kept.
_WRITE_TASKS = """
INSERT INTO tasks VALUES {rows} ON CONFLICT (seq) DO UPDATE SET
    state = excluded.state,
    submitted = coalesce(excluded.submitted, submitted),
    started = coalesce(excluded.started, started),
    finished = coalesce(excluded.finished, finished),
    confirmed = coalesce(excluded.confirmed, confirmed),
    size = coalesce(excluded.size, size),
    history = CASE excluded.state WHEN 4 THEN NULL ELSE coalesce(excluded.history, history) END,
    request = CASE excluded.state WHEN 4 THEN NULL ELSE coalesce(excluded.request, request) END
"""
_WRITE_CONTENTS = "INSERT OR REPLACE INTO contents VALUES {rows}"
_REMOVE_CONTENTS = "DELETE FROM contents WHERE seq IN ({rows})"
_READ_TASKS = """
SELECT seq, task_id, state, received, submitted, started, finished, confirmed, size, history
FROM tasks WHERE state BETWEEN ? AND ? ORDER BY seq LIMIT ?
"""
_READ_REQUESTS = """
SELECT task_id, content, received, request, history FROM tasks JOIN contents USING (seq)
WHERE seq IN ({rows}) ORDER BY seq
"""
_READ_RESULTS = """
SELECT task_id, content FROM tasks JOIN contents USING (seq) WHERE seq IN ({rows}) ORDER BY seq
"""
_COUNT_WITHOUT_CONTENT = """
SELECT count(*) FROM tasks WHERE state < 4 AND seq NOT IN (SELECT seq FROM contents)
"""
_OLD = """
FROM tasks WHERE state = 4 AND (confirmed < ? OR seq <= (
    SELECT seq FROM tasks WHERE state = 4 ORDER BY seq DESC LIMIT 1 OFFSET ?
))
"""
_SPARE = 1024  # pages which are kept for what comes, and given back at a time otherwise
_AT_ONCE = (64, 32, 16, 8, 4, 2, 1)  # rows of a statement: few kinds, so that SQLite knows them


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task which is not done, without its content. Times in ns; attempts which have begun."""

    seq: int
    task_id: str
    state: State
    received: int
    submitted: int | None
    started: int | None
    finished: int | None
    confirmed: int | None
    size: int
    history: tuple[str, ...]

    @property
    def attempts(self) -> int:
        """How many times it has begun, as far as that was noted."""
        begun = self.state in (State.STARTED, State.FINISHED) and self.started is not None
        return len(self.history) + begun


class Journal:
    """An open journal. One thread at a time may use it.

    All methods raise sqlite3.Error: OperationalError where the disk is full or fails, another
    DatabaseError where the file is damaged.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def write(self, *batches: Batch, probe: bool = False) -> None:
        """Write all of them or nothing; durable on return.

        ``probe``: write something even if there is nothing to write.
        """
        if probe:  # the write-ahead log itself may be what fills the disk
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with self._transaction():
            if probe:
                note = ("probed", str(time.time_ns()))
                self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", note)
            for batch in batches:
                self._in_rows(_TASK_WRITERS, batch.rows)
                self._in_rows(_CONTENT_WRITERS, batch.contents)
                self._in_rows(_CONTENT_REMOVERS, [(seq,) for seq in batch.removed])

    def check(self) -> None:
        """Read it all, and raise DatabaseError where it is damaged."""
        (found,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise damage(str(found).replace("\n", " "))
        (missing,) = self._database.execute(_COUNT_WITHOUT_CONTENT).fetchone()
        if missing:
            raise damage(f"of {missing} tasks the content is missing")
        self.open_tasks()
        for (request,) in self._database.execute("SELECT request FROM tasks WHERE state < 4"):
            unpacked_request(request)

    def open_tasks(self) -> list[OpenTask]:
        """Return all tasks which are not confirmed, in order of arrival."""
        return list(self.tasks(State.RECEIVED, State.FINISHED))

    def tasks(self, first: State, last: State, limit: int = -1) -> Iterator[OpenTask]:
        """Yield the tasks in these states, in order of arrival."""
        found = self._database.execute(_READ_TASKS, (first, last, limit))
        for seq, task_id, state, received, submitted, started, finished, confirmed, *rest in found:
            size, history = rest
            yield OpenTask(
                seq,
                task_id,
                State(state),
                received,
                submitted,
                started,
                finished,
                confirmed,
                size,
                unpacked_history(history),
            )

    def done(self) -> list[str]:
        """Return the ids of tasks which are confirmed."""
        query = "SELECT task_id FROM tasks WHERE state = ? ORDER BY seq"
        return [task_id for (task_id,) in self._database.execute(query, (State.CONFIRMED,))]

    def last_seq(self) -> int:
        """Return the highest number in use, or 0."""
        (last,) = self._database.execute("SELECT coalesce(max(seq), 0) FROM tasks").fetchone()
        return int(last)

    def requests(self, seqs: Sequence[int]) -> list[TaskRequest]:
        """Return tasks to run, in order of arrival."""
        query = _READ_REQUESTS.format(rows=_marks(len(seqs)))
        return _all_of(seqs, [task_of(*row) for row in self._database.execute(query, seqs)])

    def results(self, seqs: Sequence[int]) -> list[tuple[str, bytes]]:
        """Return task ids with their results, in order of arrival."""
        query = _READ_RESULTS.format(rows=_marks(len(seqs)))
        return _all_of(seqs, list(self._database.execute(query, seqs)))

    def forget_old(self, now: int) -> list[str]:
        """Forget those who are done for long, or are too many; return their ids.

        ``now`` is in ns since the epoch.
        """
        old = (now - TOMBSTONE_AGE * 10**9, TOMBSTONES)
        with self._transaction():
            found = self._database.execute(f"SELECT task_id {_OLD}", old).fetchall()
            self._database.execute(f"DELETE {_OLD}", old)
        (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
        if free > _SPARE:  # a script, since execute() would free one page and go
            self._database.executescript(f"PRAGMA incremental_vacuum({_SPARE})")
        return [task_id for (task_id,) in found]

    def close_open_tasks(self) -> int:
        """Note that all have been answered, and their results are needed no more; how many."""
        batch = Batch()
        for task in self.open_tasks():
            batch.confirm(task.seq, task.task_id)
        self.write(batch)
        return len(batch.rows)

    def note_job(self, job_id: str) -> None:
        """Note a batch job."""
        with self._transaction():
            row = (job_id, time.time_ns())
            self._database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", row)

    def forget_job(self, job_id: str) -> None:
        """Note that a batch job has ended."""
        with self._transaction():
            self._database.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def jobs(self) -> tuple[str, ...]:
        """Return the batch jobs which have been noted, the oldest first."""
        found = self._database.execute("SELECT job_id FROM jobs ORDER BY noted")
        return tuple(job_id for (job_id,) in found)

    def note_end(self, reason: str) -> None:
        """Note why this life ends."""
        self._note("end", reason)

    def last_end(self) -> str | None:
        """Return why the last life has ended, if it could tell."""
        return self._noted("end")

    def doubt_marks(self) -> None:
        """Note that in this life not every start could be marked."""
        self._note("unmarked", "")

    def are_marks_doubted(self) -> bool:
        """Return whether there were starts without a mark in the last life."""
        return self._noted("unmarked") is not None

    def begin_life(self) -> None:
        """Forget what the last life has noted of itself."""
        with self._transaction():
            self._database.execute("DELETE FROM notes WHERE name IN ('end', 'unmarked')")

    @property
    def directory(self) -> Path:
        """Where its file is."""
        _, _, path = self._database.execute("PRAGMA database_list").fetchone()
        return Path(path).parent

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _note(self, name: str, value: str) -> None:
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def _noted(self, name: str) -> str | None:
        query = "SELECT value FROM notes WHERE name = ?"
        row = self._database.execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    def _in_rows(self, writers: dict[int, str], rows: Sequence[tuple[Any, ...]]) -> None:
        # One statement for many rows: after each step of SQLite's, this thread has to wait for
        # the interpreter's lock.
        at = 0
        for count, statement in writers.items():
            while len(rows) - at >= count:
                some = rows[at : at + count]
                self._database.execute(statement, list(chain.from_iterable(some)))
                at += count

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # after some errors SQLite has ended it itself
                self._database.execute("ROLLBACK")
            raise


def prepare(database: sqlite3.Connection) -> None:
    """Make the tables of a new journal; raises ValueError where it is a newer version's."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise ValueError(f"its version is {version}, newer than {SCHEMA_VERSION}")
    if version == 0:
        database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")


def _all_of(seqs: Sequence[int], found: list[Found]) -> list[Found]:
    """Whoever asks for a content waits for it: none may be missing unsaid."""
    if len(found) < len(seqs):
        raise damage(f"of {len(seqs) - len(found)} tasks the content is missing")
    return found


def _marks(count: int) -> str:
    return ",".join("?" * count)


def _writers(statement: str, row: str) -> dict[int, str]:
    return {count: statement.format(rows=",".join([row] * count)) for count in _AT_ONCE}


_TASK_WRITERS = _writers(_WRITE_TASKS, f"({_marks(_COLUMNS)})")
_CONTENT_WRITERS = _writers(_WRITE_CONTENTS, "(?,?)")
_CONTENT_REMOVERS = _writers(_REMOVE_CONTENTS, "?")
