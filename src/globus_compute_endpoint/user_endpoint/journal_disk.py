# SPDX-License-Identifier: Apache-2.0
"""Where a task journal is, and whether that is fit for one."""

from __future__ import annotations

import logging
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.config.journal import JournalConfig
from globus_compute_endpoint.host.file_systems import FileSystem, Kind, file_system_of
from globus_compute_endpoint.host.paths import USERS_STATE
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write

__all__ = ["check_place", "journal_directory"]

log = logging.getLogger(__name__)


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
