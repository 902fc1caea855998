# SPDX-License-Identifier: Apache-2.0
"""The journal's files in a user endpoint's state directory: opened, marked and removed.

The marker beside the journal is for managers, which do not open users' files: as long as it is
there, the journal may hold tasks which nobody else has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from globus_compute_endpoint.host.paths import JOURNAL_FILE, WORK_MARKER
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write
from globus_compute_endpoint.user_endpoint.journal import Journal, prepare

__all__ = ["close_open_tasks", "mark", "open_journal", "remove_journal", "unmark"]

log = logging.getLogger(__name__)

_BUSY_TIMEOUT = 10.0  # seconds: somebody looks at the journal with tools of their own
_CHECKPOINT = 4096  # pages of 4 KiB in the write-ahead log
_SIDE_FILES = ("-wal", "-shm", "-journal")


def open_journal(directory: Path) -> Journal:
    """Open the journal in a state directory, or make one.

    Raises:
        Problem: it cannot be opened (CANNOT_CREATE), or is of a newer version (CONFIGURATION).
    """
    path = directory / JOURNAL_FILE
    try:
        # The first to open it decides who may read it; SQLite gives its side files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        database = sqlite3.connect(
            path,
            timeout=_BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=8,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(database.close)
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            database.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT * 4096}")
            prepare(database)
            undo.pop_all()
    except (sqlite3.Error, ValueError) as error:
        raise Problem(
            "JOURNAL_UNUSABLE",
            f"the task journal {path} cannot be used: {error}",
            "see that its disk is not full; a damaged journal can be moved away, with its tasks",
            ExitStatus.CANNOT_CREATE,
        ) from error
    return Journal(database)


def mark(directory: Path) -> None:
    """Set the marker; durable on return.

    Raises:
        Problem: that is not possible (CANNOT_CREATE).
    """
    path = directory / WORK_MARKER
    try:
        path.touch(mode=0o600)
        _sync(directory)
    except OSError as error:
        raise cannot_write(path, error) from error


def unmark(directory: Path) -> None:
    """Remove the marker: nothing in the journal waits for anything."""
    try:
        (directory / WORK_MARKER).unlink(missing_ok=True)
    except OSError as error:  # then it is looked at once more than needed
        log.warning("%s", cannot_write(directory / WORK_MARKER, error))


def remove_journal(directory: Path) -> None:
    """Remove a journal which is closed, and of which nothing needs to be remembered."""
    path = directory / JOURNAL_FILE
    for each in (path, *(Path(f"{path}{suffix}") for suffix in _SIDE_FILES)):
        with contextlib.suppress(OSError):
            each.unlink(missing_ok=True)


def close_open_tasks(directory: Path) -> None:
    """Take all tasks of a state directory for answered, since they have been, all at once."""
    if (directory / JOURNAL_FILE).exists():
        try:
            journal = open_journal(directory)
            try:
                closed = journal.close_open_tasks()
            finally:
                journal.close()
        except (Problem, sqlite3.Error) as error:
            log.error("%s: tasks which have been failed stay in the journal: %s", directory, error)
            return
        if closed:
            log.info("%d tasks were in the journal, and have been failed", closed)
    unmark(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
