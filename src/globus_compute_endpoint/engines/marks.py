# SPDX-License-Identifier: Apache-2.0
"""Start marks: which tasks have begun, as their workers say wherever they run.

Each life of a user endpoint has a directory of its own below one root, and each worker process
a file of its own in there, to which it appends a line just before it runs a task. The lines are
there for the next life, if this one ends before it could hear of the start.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

__all__ = ["open_marks", "read_marks", "remove_marks"]

_WIDTH = 36  # characters of a task id
_TAKEN_BACK = "-"


def open_marks(root: Path) -> Path:
    """Make the directory for the marks of this life, below ``root``.

    Raises:
        OSError: it cannot be made.
    """
    directory = root / uuid4().hex
    directory.mkdir(parents=True, mode=0o700)
    return directory


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


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _begun(path: Path) -> set[str]:
    begun: set[str] = set()
    for line in path.read_text(errors="replace").splitlines():
        task_id = line.removeprefix(_TAKEN_BACK)
        if len(task_id) != _WIDTH:
            continue  # cut short: the node or the disk went away
        if line.startswith(_TAKEN_BACK):
            begun.discard(task_id)
        else:
            begun.add(task_id)
    return begun
