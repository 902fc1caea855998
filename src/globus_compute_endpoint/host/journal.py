# SPDX-License-Identifier: Apache-2.0
"""Structured logging to journald, or plain lines to standard error where there is no journal.

Fields given as ``extra={"GC_TASK_ID": …}`` become journal fields: see systemd.journal-fields(7).
What user-owned processes write there are claims; ``_UID`` and ``_SYSTEMD_UNIT`` are the journal's.
"""

from __future__ import annotations

import logging
import os
import sys

from systemd import journal

__all__ = ["has_journal", "log_to_journal", "log_to_stderr_stream", "redirect_output"]

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (0, 7),
)
_SOCKET = "/run/systemd/journal/socket"


def has_journal() -> bool:
    """Whether a journald listens on this machine."""
    return os.path.exists(_SOCKET)  # noqa: PTH110 - one stat, no Path wanted in the spawner's child


def log_to_journal(identifier: str, *, debug: bool = False) -> None:
    """Send all log records to journald under ``SYSLOG_IDENTIFIER=identifier``."""
    handler = journal.JournalHandler(SYSLOG_IDENTIFIER=identifier)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _install(handler, debug=debug)


def log_to_stderr_stream(*, debug: bool = False) -> None:
    """Send all log records to standard error with their priority; see sd-daemon(3)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PriorityFormatter("%(message)s"))
    _install(handler, debug=debug)


class _PriorityFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def redirect_output(identifier: str) -> None:
    """Connect standard output and error to the journal, in the name of the calling process.

    A stream belongs to who opened it: inherited from the spawner, a user endpoint's output would
    be filed under the spawner's unit.
    """
    stream = journal.stream(identifier)
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    stream.close()


def _install(handler: logging.Handler, *, debug: bool) -> None:
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("globus_compute_endpoint").setLevel(logging.DEBUG if debug else logging.INFO)
    for noisy in ("pika", "parsl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
