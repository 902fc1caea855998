# SPDX-License-Identifier: Apache-2.0
"""Where a task journal is, whether that is fit for one, and why its disk refuses."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.config.journal import JournalConfig
from globus_compute_endpoint.host.file_systems import FileSystem, Kind, file_system_of
from globus_compute_endpoint.host.paths import USERS_STATE
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write
from globus_compute_endpoint.user_endpoint.journal import Journal

__all__ = ["check_place", "explained", "journal_directory"]

log = logging.getLogger(__name__)

_OF_DISKS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
_PAGE = 4096


def check_place(directory: Path, *, allow_volatile: bool) -> None:
    """Warn of a network file system, and refuse one in memory unless that is allowed.

    Raises:
        Problem: what is written there is gone with the next boot (CONFIGURATION); or it cannot be
            opened (CANNOT_CREATE).
    """
    try:
        found = file_system_of(directory)
    except OSError as error:
        raise cannot_write(directory, error) from error
    if found.kind is Kind.VOLATILE and not allow_volatile:
        raise _volatile(directory, found)
    if found.kind is Kind.NETWORK:
        log.warning(
            "The task journal is in %s, on a network file system (%s at %s): slow, and no better"
            " than its server; journal: {directory: …} names a place on a local disk",
            directory,
            found.type,
            found.mount_point,
        )


def journal_directory(config: JournalConfig, endpoint_id: UUID) -> Path | None:
    """Return where ``journal: {directory: …}`` has an endpoint's journal, made if need be.

    Raises:
        Problem: it cannot be made (CANNOT_CREATE).
    """
    if config.directory is None:
        return None
    made = config.directory / str(endpoint_id)
    try:
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(made, error) from error
    return made


def explained(error: Exception, journal: Journal) -> Exception:
    """Return a journal's error with what the system says of its disk: SQLite keeps that to itself.

    To be called in the journal's thread: it writes to that disk.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF not in _OF_DISKS or (reason := _refusal(journal.directory)) is None:
        return error
    found = sqlite3.OperationalError(f"{error} ({reason.strerror})")
    found.sqlite_errorcode = code
    return found


def _refusal(directory: Path) -> OSError | None:
    """Return what the system says to a page which is written there, unless it takes it."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.pwrite(file.fileno(), bytes(_PAGE), 0)
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _volatile(directory: Path, found: FileSystem) -> Problem:
    if directory.is_relative_to(USERS_STATE):
        hint = f"the administrator mounts a disk at {USERS_STATE.parent}, or"
    else:
        hint = "set journal: {directory: …} to a directory on a local disk, or"
    return Problem(
        "VOLATILE_JOURNAL",
        f"the task journal would be in {directory}, which is in memory ({found.type} at"
        f" {found.mount_point}): a power loss would lose its tasks",
        f"{hint} allow it with journal: {{allow_volatile: true}}",
        ExitStatus.CONFIGURATION,
    )
