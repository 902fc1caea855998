# SPDX-License-Identifier: Apache-2.0
"""Files which are whole and in place even after a power cut: see rename(2) and fsync(2)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_file", "sync_directory"]


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file, whole or not at all; durable on return. The umask applies to ``mode``.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or removed in a directory durable.

    Raises:
        OSError: that is not possible.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
