# SPDX-License-Identifier: Apache-2.0
"""Structured logging to journald, or plain lines to standard error where there is no journal.

Fields given as ``extra={"GC_TASK_ID": …}`` become journal fields: see systemd.journal-fields(7).
What user-owned processes write there are claims; ``_UID`` and ``_SYSTEMD_UNIT`` are the journal's.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
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
_LONGEST = 48 * 1024  # of one field: what a datagram holds is limited (net.core.wmem_default)


def has_journal() -> bool:
    """Whether a journald listens on this machine."""
    return os.path.exists(_SOCKET)  # noqa: PTH110 - one stat, no Path wanted in the spawner's child


class _Sender:
    """Sends to journald, in its native protocol, without ever waiting for it.

    ``systemd.journal.send`` waits where journald hangs or does not keep up; here messages are
    dropped then, and the next one that is taken says how many.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._dropped = 0

    def send(self, message: str, /, **fields: object) -> None:
        """Send one message; see https://systemd.io/JOURNAL_NATIVE_PROTOCOL."""
        if self._dropped:
            text = f"{self._dropped} messages were dropped: journald did not take them"
            kept = {key: fields[key] for key in ("SYSLOG_IDENTIFIER",) if key in fields}
            if not self._try({**kept, "PRIORITY": "4", "MESSAGE": text}):
                self._dropped += 1
                return
            self._dropped = 0
        self._dropped += not self._try({**fields, "MESSAGE": message[:_LONGEST]})

    def _try(self, fields: dict[str, object]) -> bool:
        datagram = b"".join(_field(name, value) for name, value in fields.items())
        try:
            self._socket.sendto(datagram, socket.MSG_DONTWAIT, _SOCKET)
        except OSError:  # full, or restarting, or too long for one datagram
            return False
        return True


def _field(name: str, value: object) -> bytes:
    """Return one field as it is sent; nothing where journald does not take such a name."""
    if not name.isupper() or not name.isascii() or value is None:
        return b""
    data = str(value)[:_LONGEST].encode(errors="backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def log_to_journal(identifier: str, *, debug: bool = False) -> None:
    """Send all log records to journald under ``SYSLOG_IDENTIFIER=identifier``."""
    sender = _Sender()
    handler = journal.JournalHandler(sender_function=sender.send, SYSLOG_IDENTIFIER=identifier)
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
