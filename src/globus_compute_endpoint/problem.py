# SPDX-License-Identifier: Apache-2.0
"""The one kind of error which people are shown, from the command line to AMQP."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

__all__ = ["ExitStatus", "Problem", "cannot_write"]


class ExitStatus(IntEnum):
    """Exit statuses after ``sysexits.h``; our units name them in ``RestartPreventExitStatus=``."""

    DATA = 65
    UNAVAILABLE = 69
    INTERNAL = 70
    CANNOT_CREATE = 73
    TEMPORARY = 75
    NO_PERMISSION = 77
    CONFIGURATION = 78


class Problem(Exception):
    """What went wrong, in one line, and what to do about it, in another.

    ``code`` is stable and meant for programs (``UPPER_SNAKE_CASE``), ``message`` says what was
    refused and why, ``hint`` what to do. Neither may hold secrets: all three are shown to users.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        exit_status: ExitStatus = ExitStatus.INTERNAL,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_status = exit_status

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def cannot_write(path: Path, error: OSError) -> Problem:
    """Return the problem of a file or directory which could not be written."""
    return Problem(
        "CANNOT_WRITE",
        f"cannot write {path}: {error.strerror}",
        "check that the directory may be written, and that the disk and quota are not full",
        ExitStatus.CANNOT_CREATE,
    )
