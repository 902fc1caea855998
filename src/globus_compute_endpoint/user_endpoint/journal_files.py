# SPDX-License-Identifier: Apache-2.0
"""The journal's files in a user endpoint's state directory: opened, marked and removed.

The marker beside the journal is for managers, which do not open users' files: as long as it is
there, the journal may hold tasks which nobody else has.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
from pathlib import Path

from globus_compute_endpoint.host.durable import sync_directory
from globus_compute_endpoint.host.file_systems import Kind, file_system_of
from globus_compute_endpoint.host.paths import JOURNAL_FILE, WORK_MARKER
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write
from globus_compute_endpoint.user_endpoint.journal import Journal, prepare

__all__ = [
    "SIDE_FILES",
    "close_open_tasks",
    "is_damage",
    "mark",
    "open_journal",
    "remove_journal",
    "unmark",
    "unusable",
]

log = logging.getLogger(__name__)

_BUSY_TIMEOUT = 10.0  # seconds: somebody looks at the journal with tools of their own
_CHECKPOINT = 4096  # pages of 4 KiB in the write-ahead log
SIDE_FILES = ("-wal", "-shm", "-journal")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_journal(directory: Path, name: str = JOURNAL_FILE) -> Journal:
    """Open the journal in a state directory, or make one.

    With a write-ahead log, which is quick, but needs shared memory: not on a file server.

    Raises:
        Problem: it cannot be opened (CANNOT_CREATE), or is of a newer version.
    """
    path = directory / name
    try:
        locks = _create(path)
        wal = locks and file_system_of(directory).kind is not Kind.NETWORK
        database = sqlite3.connect(
            f"{path.as_uri()}{'' if locks else '?nolock=1'}",
            uri=True,
            timeout=_BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=32,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(database.close)
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'TRUNCATE'}")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            database.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT * 4096}")
            prepare(database)
            undo.pop_all()
    except OSError as error:
        raise cannot_write(path, error) from error
    except (sqlite3.Error, ValueError) as error:
        raise unusable(path, error) from error
    return Journal(database)


def is_damage(error: BaseException | None) -> bool:
    """Whether the file itself is damaged, or is no database; not: whether its disk fails."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def unusable(path: Path, error: Exception) -> Problem:
    """Return the problem of a journal which cannot be used."""
    if is_damage(error):
        return Problem(
            "JOURNAL_DAMAGED",
            f"the task journal {path} is damaged: {error}",
            "the next start carries over what can be read; have the disk checked",
            ExitStatus.TEMPORARY,
        )
    return Problem(
        "JOURNAL_UNUSABLE",
        f"the task journal {path} cannot be used: {error}",
        "see that its disk is not full, and can be written",
        ExitStatus.CANNOT_CREATE,
    )


def _create(path: Path) -> bool:
    """Create the file if it is missing; return whether the file system has locks.

    Who opens it first decides who may read it: SQLite gives its side files the same mode.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS  # else it is locked by another, or SQLite tells
    finally:
        os.close(descriptor)
    return True


def mark(directory: Path) -> None:
    """Set the marker; durable on return.

    Raises:
        Problem: that is not possible (CANNOT_CREATE).
    """
    path = directory / WORK_MARKER
    try:
        path.touch(mode=0o600)
        sync_directory(directory)
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
    for each in (path, *(Path(f"{path}{suffix}") for suffix in SIDE_FILES)):
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
