# SPDX-License-Identifier: Apache-2.0
"""The one kind of error which an administrator is shown by ``globus-compute-services``."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitStatus", "Problem"]


class ExitStatus(IntEnum):
    """Exit statuses after ``sysexits.h``; the unit names them in ``RestartPreventExitStatus=``."""

    USAGE = 64
    UNAVAILABLE = 69
    CANNOT_CREATE = 73
    NO_PERMISSION = 77
    CONFIGURATION = 78


class Problem(Exception):
    """What went wrong, in one line, and what to do about it, in another; neither holds secrets."""

    def __init__(self, message: str, hint: str = "", exit_status: ExitStatus = ExitStatus.USAGE):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_status = exit_status

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
