# SPDX-License-Identifier: Apache-2.0
"""Start marks: which tasks have begun, as their workers say wherever they run.

Each life of a user endpoint has a directory of its own below one root, and each worker process
a file of its own in there, to which it appends a line just before it runs a task. The lines are
there for the next life, if this one ends before it could hear of the start.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

__all__ = ["MarksReader", "Place", "is_unmarked", "open_marks", "read_marks", "remove_marks"]

_WIDTH = 36  # characters of a task id
_TAKEN_BACK = "-"
_TAIL = 4096  # bytes; a result's details are at its end


class Place(NamedTuple):
    """Where a task has begun: a worker's host, and its block of nodes if there are such."""

    host: str
    block: str | None


class MarksReader:
    """Reads the marks of a life as they are written; ``found`` are those not yet taken."""

    def __init__(self, directory: Path) -> None:
        self.found: deque[tuple[str, Place]] = deque()
        self._directory = directory
        self._read: dict[Path, int] = {}  # bytes
        self._lock = threading.Lock()

    def read(self) -> None:
        """Find the tasks which have begun since the last call. From any thread.

        Raises:
            OSError: a file cannot be read; BlockingIOError: another thread still reads.
        """
        if not self._lock.acquire(blocking=False):
            raise BlockingIOError(errno.EAGAIN, f"{self._directory} does not answer")
        try:
            for path in _files(self._directory):
                place = _place(path.name)
                self.found.extend((task_id, place) for task_id in self._next(path))
        finally:
            self._lock.release()

    def _next(self, path: Path) -> list[str]:
        # Opened, and not only looked at: that is when a network file system asks its server.
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            lines, end, _ = file.read().rpartition(b"\n")
        self._read[path] = self._read.get(path, 0) + len(lines) + len(end)
        return [each for each in lines.decode("ascii", "replace").split("\n") if _is_id(each)]


def open_marks(root: Path) -> Path:
    """Make the directory for the marks of this life, below ``root``.

    Raises:
        OSError: it cannot be made.
    """
    directory = root / uuid4().hex
    directory.mkdir(parents=True, mode=0o700)
    return directory


def is_unmarked(packed: bytes) -> bool:
    """Whether a packed result says that its worker could not mark the start of the task."""
    return b'"start_mark"' in packed[-_TAIL:]


def read_marks(directory: Path) -> frozenset[str]:
    """Return the ids of the tasks which have begun, by all files below ``directory``.

    Raises:
        OSError: a file cannot be read.
    """
    return frozenset(task_id for path in _files(directory) for task_id in _begun(path))


def remove_marks(root: Path, *, keep: Path | None = None) -> None:
    """Remove the marks of all lives below ``root``, or of all but one."""
    with contextlib.suppress(FileNotFoundError):
        for life in root.iterdir():
            if life != keep:
                shutil.rmtree(life, ignore_errors=True)


def _place(name: str) -> Place:
    rest, _, block = name.rpartition("@")
    return Place((rest or name).rsplit("-", 2)[0], block if rest else None)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _begun(path: Path) -> set[str]:
    begun: set[str] = set()
    for line in path.read_text(errors="replace").splitlines():
        task_id = line.removeprefix(_TAKEN_BACK)
        if not _is_id(task_id):
            continue  # cut short: the node or the disk went away
        if line.startswith(_TAKEN_BACK):
            begun.discard(task_id)
        else:
            begun.add(task_id)
    return begun


def _is_id(line: str) -> bool:
    return len(line) == _WIDTH
