# SPDX-License-Identifier: Apache-2.0
"""A log file on a file system which may be away for minutes, or full.

A home directory on a cluster hangs while its server restarts. Whoever logs must not wait for it,
least of all the event loop: a thread of its own writes, and what it cannot write is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from pathlib import Path

__all__ = ["LogFile"]

log = logging.getLogger(__name__)

_QUEUE_LIMIT = 4 << 20  # characters which wait for a file system that is away
_SIZE_LIMIT = 64 << 20  # bytes of the file, and of the earlier one which is kept
_FLUSH_TIMEOUT = 5.0  # seconds which an ending process gives it
_NOT_HERE = "not in endpoint.log"  # attribute of records about the file itself


class LogFile(logging.Handler):
    """Appends lines to a file from a thread, so that nobody who logs ever waits.

    All lines of one turn of the event loop are handed over at once: to wake the thread for each
    would cost the loop the interpreter's lock as often.

    Lines which find the queue full or the file unwritable are dropped and counted, and both the
    file and the other handlers are told how many, once it can be written again.

    A file of ``size_limit`` bytes becomes ``endpoint.log.1``, in place of an earlier one.

    Raises:
        OSError: the file cannot be opened, or ``first`` not be written.
    """

    def __init__(
        self, path: Path, first: str, *, limit: int = _QUEUE_LIMIT, size_limit: int = _SIZE_LIMIT
    ) -> None:
        super().__init__()
        self._path = path
        self._earlier = path.with_name(f"{path.name}.1")
        self._size_limit = size_limit
        self._limit = limit
        self._file = _append(path)
        self._room = size_limit - os.fstat(self._file).st_size
        os.write(self._file, first.encode())
        self._lines: deque[str] = deque()
        self._size = 0  # of them all, and of what is being written
        self._due = False  # the loop wakes the thread at the end of its turn
        self._lost = 0
        self._away = False
        self._closing = False
        self._cut = False  # the file ends within a line
        self._patience = _FLUSH_TIMEOUT
        self._changed = threading.Condition(threading.Lock())
        threading.Thread(target=self._write_on, daemon=True, name="endpoint.log").start()

    def filter(self, record: logging.LogRecord) -> bool:
        return _NOT_HERE not in record.__dict__ and super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:  # noqa: BLE001  (as every handler does: it tells standard error)
            self.handleError(record)
            return
        with self._changed:
            full = self._size + len(line) > self._limit
            if full:
                self._lost += 1
            else:
                self._lines.append(line)
                self._size += len(line)
            first = full and not self._away
            self._away |= full
        if first:
            self._tell_away("it does not keep up; its file system may be away")
        self._wake()

    def flush(self) -> None:
        """Wait until all is written, or for a few seconds."""
        if threading.current_thread() is not threading.main_thread():
            return
        with self._changed:
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._size, self._patience):
                self._patience = 0.0  # once is enough

    def close(self) -> None:
        """Write what is left, if that can be done within a few seconds."""
        if not self._closing:
            self.flush()
            with self._changed:
                self._closing = True
                unwritten = self._size
                self._changed.notify_all()
            if unwritten:
                self._tell_away("the last lines could not be written in time")
        super().close()

    def _wake(self) -> None:
        loop = asyncio._get_running_loop()
        if loop is None or threading.current_thread() is not threading.main_thread():
            with self._changed:
                self._changed.notify_all()
        elif not self._due:
            self._due = True
            loop.call_soon(self._wake_after_turn)

    def _wake_after_turn(self) -> None:
        self._due = False
        with self._changed:
            self._changed.notify_all()

    def _write_on(self) -> None:
        """Be the thread which writes, and which alone may have to wait."""
        while lines := self._next():
            data = "".join(lines).encode(errors="backslashreplace")
            written, problem = self._write(data)
            self._note(sum(map(len, lines)), data.count(b"\n", written), problem)
        os.close(self._file)

    def _next(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            lines = list(self._lines)
            self._lines.clear()
        return lines

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Write as much as can be; return how much that was, and why no more."""
        written = 0
        try:
            if self._room <= 0 and not self._cut:
                self._turn_over()
            self._room -= len(data)
            if self._cut:
                self._cut = not os.write(self._file, b"\n")
            while written < len(data):
                written += os.write(self._file, memoryview(data)[written:])
        except OSError as error:
            self._cut |= written > 0
            # The server may have forgotten the file (ESTALE): the next lines open it anew.
            with contextlib.suppress(OSError):
                self._open_anew()
            return written, error
        return written, None

    def _turn_over(self) -> None:
        """Begin a new file; where that cannot be, go on with the old one for as long again."""
        self._room = self._size_limit
        with contextlib.suppress(OSError):
            self._path.replace(self._earlier)
            self._open_anew()
            os.write(self._file, f"(earlier lines are in {self._earlier})\n".encode())

    def _open_anew(self) -> None:
        fresh = _append(self._path)
        os.dup2(fresh, self._file, inheritable=False)
        os.close(fresh)

    def _note(self, size: int, lost: int, problem: OSError | None) -> None:
        """Reckon up what has become of so many characters, and tell of a change."""
        with self._changed:
            self._size -= size
            self._lost += lost
            missing, told = self._lost, self._away
            self._away = problem is not None
            if problem is None:
                self._lost = 0
            self._changed.notify_all()
        if problem is not None and not told:
            self._tell_away(problem.strerror)
        elif problem is None and missing:  # said in the file, too, where the gap is
            log.warning("%d lines could not be written to %s, and are lost", missing, self._path)

    def _tell_away(self, reason: str | None) -> None:
        """Tell the other handlers."""
        text = "%s cannot be written: %s; lines are lost until it can"
        log.warning(text, self._path, reason, extra={_NOT_HERE: True})


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
