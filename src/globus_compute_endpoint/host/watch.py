# SPDX-License-Identifier: Apache-2.0
"""Be told when a file was written or replaced; see inotify(7)."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path

from globus_compute_endpoint.host import libc

__all__ = ["FileWatch"]

_EVENT = struct.Struct("iIII")
_SETTLE_S = 0.05  # editors write, rename and touch in one go: look once, when they are done


class FileWatch:
    """Calls ``on_change`` on the running loop after ``path`` was written or replaced.

    Watches the directory, because editors and configuration managers replace the file itself.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._settling: asyncio.TimerHandle | None = None
        self._descriptor = libc.inotify_init()
        try:
            mask = libc.IN_CLOSE_WRITE | libc.IN_MOVED_TO
            libc.inotify_add_watch(self._descriptor, str(path.parent), mask)
        except OSError:
            os.close(self._descriptor)
            raise
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._settling:
            self._settling.cancel()

    def _read(self) -> None:
        data = os.read(self._descriptor, 65536)
        names = set()
        while data:
            *_, length = _EVENT.unpack_from(data)
            names.add(data[_EVENT.size : _EVENT.size + length].rstrip(b"\0"))
            data = data[_EVENT.size + length :]
        if os.fsencode(self._path.name) in names:
            if self._settling:
                self._settling.cancel()
            self._settling = self._loop.call_later(_SETTLE_S, self._on_change)
