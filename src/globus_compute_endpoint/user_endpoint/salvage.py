# SPDX-License-Identifier: Apache-2.0
"""Carrying what can be read of a damaged journal over into a new one.

Each task of which more is left than its id goes on; one of which no more is left gets an error
for a result, since somebody waits for it. Tasks of which nothing is left cannot be told of.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from globus_compute_common.messagepack import unpack
from globus_compute_common.messagepack.message_types import Result, Task

from globus_compute_endpoint.host.durable import sync_directory
from globus_compute_endpoint.host.paths import JOURNAL_FILE, holds_work
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write
from globus_compute_endpoint.user_endpoint.journal import Journal
from globus_compute_endpoint.user_endpoint.journal_batch import State
from globus_compute_endpoint.user_endpoint.journal_files import (
    SIDE_FILES,
    is_damage,
    open_journal,
    unusable,
)
from globus_compute_endpoint.user_endpoint.journal_rows import unpacked_history, unpacked_request
from globus_compute_endpoint.worker import task as worker

__all__ = ["Salvaged", "open_sound", "salvage", "set_aside"]

log = logging.getLogger(__name__)

_ASIDE = ".damaged-"
_SALVAGED = f"{JOURNAL_FILE}.salvaged"
_KEPT = 3  # damaged journals
_FAILURES = 20_000  # reads which may fail before the rest is given up
_HEAD = struct.Struct(">16xH10xI")  # of an SQLite file: size of a page, number of pages
_PAGES = 1 << 24  # more than a journal ever has

Row = tuple[Any, ...]


@dataclass
class Salvaged:
    """How many tasks could be carried over, and how many got an error for a result.

    ``unreadable`` records may have been of tasks which nobody can know of any more.
    """

    whole: int = 0
    failed: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        return (
            f"{self.whole} tasks carried over, {self.failed} ended with an error,"
            f" {self.unreadable} records could not be read"
        )


def open_sound(directory: Path, endpoint_id: str) -> Journal:
    """Open a journal as :func:`open_journal` does; a damaged one is replaced by what is left of it.

    Raises:
        Problem: it cannot be opened, or replaced (CANNOT_CREATE).
    """
    path = directory / JOURNAL_FILE
    try:
        _finish_earlier(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        journal = open_journal(directory)
        if holds_work(directory):
            _check(journal, path)
    except Problem as problem:
        if not is_damage(problem.__cause__):
            raise
        log.error("%s", problem.message)
        _replace(path, endpoint_id)
        return open_journal(directory)
    return journal


def _check(journal: Journal, path: Path) -> None:
    try:
        journal.check()
    except sqlite3.Error as error:
        journal.close()
        raise unusable(path, error) from error


def _replace(path: Path, endpoint_id: str) -> None:
    """Put what can be read of a journal in its place, and keep the damaged one."""
    salvaged = path.with_name(_SALVAGED)
    try:
        open_journal(path.parent, _SALVAGED).close()
        with contextlib.closing(sqlite3.connect(salvaged, isolation_level=None)) as new:
            found = salvage(path, new, endpoint_id)
        aside = set_aside(path)
        _put_in_place(salvaged, path)
    except (OSError, sqlite3.Error) as error:
        raise Problem(
            "JOURNAL_UNUSABLE",
            f"the task journal {path} is damaged, and what is left cannot be written: {error}",
            "see that its disk is not full, and can be written",
            ExitStatus.CANNOT_CREATE,
        ) from error
    log.error("The task journal was damaged: %s; %s is kept", found, aside)


def _finish_earlier(path: Path) -> None:
    """Finish a replacement which was cut short, or undo it where nothing was put aside yet."""
    salvaged = path.with_name(_SALVAGED)
    if path.exists():
        for suffix in (*SIDE_FILES, ""):
            Path(f"{salvaged}{suffix}").unlink(missing_ok=True)
    elif salvaged.exists():
        for aside in _set_aside(path)[-1:]:
            _put_side_files_aside(path, aside)
        _put_in_place(salvaged, path)


def _put_in_place(salvaged: Path, path: Path) -> None:
    salvaged.rename(path)
    sync_directory(path.parent)


def set_aside(path: Path) -> Path:
    """Give a damaged journal another name, and return that; of those, a few are kept."""
    aside = path.with_name(f"{path.name}{_ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    # The journal before its side files: without its log it lacks tasks, and must not be read again.
    path.rename(aside)
    sync_directory(path.parent)
    _put_side_files_aside(path, aside)
    for earlier in _set_aside(path)[:-_KEPT]:
        for suffix in (*SIDE_FILES, ""):
            Path(f"{earlier}{suffix}").unlink(missing_ok=True)
    return aside


def _set_aside(path: Path) -> list[Path]:
    """Damaged journals which are kept, the oldest first."""
    return sorted(path.parent.glob(f"{path.name}{_ASIDE}*Z"))


def _put_side_files_aside(path: Path, aside: Path) -> None:
    """One that is left would be taken for the new journal's own."""
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    sync_directory(path.parent)


def salvage(damaged: Path, new: sqlite3.Connection, endpoint_id: str) -> Salvaged:
    """Read what can be read from ``damaged``, and write it to ``new``, an empty journal.

    Raises:
        sqlite3.Error: ``new`` cannot be written; OSError: nor ``damaged`` opened.
    """
    _make_whole(damaged)
    new.execute("BEGIN IMMEDIATE")
    tasks, contents, unreadable = _read_all(damaged, new)
    for seq in sorted(contents - tasks.keys()):
        query = "SELECT content FROM contents WHERE seq = ?"
        (content,) = new.execute(query, (seq,)).fetchone()
        if (row := _identify(seq, content)) is not None:
            tasks[seq] = row
    found = Salvaged(unreadable=len((unreadable | contents) - tasks.keys()))
    for seq, row in tasks.items():
        if row[2] == State.CONFIRMED:
            written = row
        elif seq in contents:
            written = row
            found.whole += 1
        else:
            written, content = _without_content(row, endpoint_id)
            new.execute("INSERT INTO contents VALUES (?, ?)", (seq, content))
            found.failed += 1
        new.execute("INSERT INTO tasks VALUES (?,?,?,?,?,?,?,?,?,?,?)", written)
    unused = "DELETE FROM contents WHERE seq NOT IN (SELECT seq FROM tasks WHERE state < ?)"
    new.execute(unused, (State.CONFIRMED,))
    new.execute("COMMIT")
    return found


def _make_whole(damaged: Path) -> None:
    """Fill up what was cut off: SQLite reads nothing of a file which is too short."""
    with damaged.open("r+b") as file:
        head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            page, count = _HEAD.unpack(head)
            size = count * (page if page > 1 else 65536)
            if size > file.seek(0, os.SEEK_END) and count < _PAGES:
                file.truncate(size)


def _read_all(damaged: Path, new: sqlite3.Connection) -> tuple[dict[int, Row], set[int], set[int]]:
    """Copy all but tasks; return these by number, whose contents there are, and gaps."""
    tasks: dict[int, Row] = {}
    contents: set[int] = set()

    def take_content(row: Row) -> None:
        if isinstance(row[1], bytes):
            new.execute("INSERT OR REPLACE INTO contents VALUES (?, ?)", row)
            contents.add(row[0])

    def take_task(row: Row) -> None:
        if _is_sound(row):
            tasks[row[0]] = row

    with contextlib.closing(sqlite3.connect(damaged, isolation_level=None)) as old:
        old.text_factory = lambda data: data.decode(errors="replace")
        _Reader(old, "contents", take_content).read()
        reader = _Reader(old, "tasks", take_task)
        reader.read(at_least=max(contents, default=0))
        with contextlib.suppress(sqlite3.DatabaseError):
            jobs = old.execute("SELECT job_id, noted FROM jobs").fetchall()
            new.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?)", jobs)
        with contextlib.suppress(sqlite3.DatabaseError):
            notes = old.execute("SELECT name, value FROM notes").fetchall()
            new.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", notes)
    return tasks, contents, reader.unreadable


@dataclass
class _Reader:
    """Reads round what is damaged; ``take`` may be called more than once with a row."""

    database: sqlite3.Connection
    table: str
    take: Callable[[Row], None]
    unreadable: set[int] = field(default_factory=set)  # numbers of rows

    def read(self, at_least: int = 0) -> None:
        """Read from both ends to where that fails, and in ever smaller steps between.

        ``at_least`` is the number of a row which may be in there.
        """
        first = self._scan("ORDER BY seq")
        if first is None:
            return
        last = self._scan("ORDER BY seq DESC")
        low, high = first + 1, max(last or 0, at_least)
        ranges = [(low, high)] if low <= high else []
        failures = 0
        while ranges and failures < _FAILURES:
            low, high = ranges.pop()
            if self._scan(f"WHERE seq BETWEEN {low} AND {high} ORDER BY seq") is None:
                continue
            failures += 1
            middle = (low + high) // 2
            if low == high:
                self.unreadable.add(low)
            else:
                ranges += [(low, middle), (middle + 1, high)]
        for low, high in ranges:
            self.unreadable.update(range(low, high + 1))

    def _scan(self, which: str) -> int | None:
        """Return None at the end of all rows, or the number after which they cannot be read."""
        key = 0
        try:
            for row in self.database.execute(f"SELECT * FROM {self.table} {which}"):  # noqa: S608  (ours)
                key = row[0]
                self.take(row)
        except sqlite3.DatabaseError:
            return key
        return None


def _is_sound(row: Row) -> bool:
    _, task_id, state, received, *times, size, history, request = row
    numbers = (size, *(each for each in times if each is not None))
    with contextlib.suppress(ValueError, TypeError, AttributeError, sqlite3.DatabaseError):
        unpacked_history(history)
        unpacked_request(request)
        named = str(UUID(task_id)) == task_id and state in iter(State)
        return named and all(isinstance(each, int) for each in (received, *numbers))
    return False


def _identify(seq: int, content: bytes) -> Row | None:
    """Return the row of a task of which only the content is left, or None where that is none."""
    try:
        message = unpack(content)
    except Exception:  # noqa: BLE001  (any bytes may be there)
        return None
    now, size = time.time_ns(), len(content)
    if isinstance(message, Task):  # it may have begun: nobody knows
        begun = (now, now, now, None, None)
        return (seq, str(message.task_id), State.STARTED, *begun, size, None, None)
    if isinstance(message, Result):
        done = (now, now, now, now, None)
        return (seq, str(message.task_id), State.FINISHED, *done, size, None, None)
    return None


def _without_content(row: Row, endpoint_id: str) -> tuple[Row, bytes]:
    """Return the row as that of a task which has failed, and the error which says so."""
    seq, task_id, state, received, submitted, started, *_ = row
    what = "its result, before that was sent" if state == State.FINISHED else "the task itself"
    text = (
        "The task journal of the endpoint was damaged on its disk, and with it"
        f" {what}. Submit the task again."
    )
    packed = worker.failure(task_id, "JournalDamaged", text, {"endpoint_id": endpoint_id})
    times = (received, submitted, started, time.time_ns(), None)
    return (seq, task_id, State.FINISHED, *times, len(packed), None, None), packed
