# SPDX-License-Identifier: Apache-2.0
"""Which tasks were running in this process when it died, for the process after it."""

from __future__ import annotations

import mmap
from collections import Counter
from pathlib import Path

__all__ = ["FlightRecorder"]

_WIDTH = 36  # characters of a task id
_REMEMBERED = 1000


class FlightRecorder:
    """A small file in memory with one slot for each thread.

    What is written there stays when the process ends, however that happens, at the price of
    copying 36 bytes. ``deaths`` counts how often a task has taken its process with it.
    """

    def __init__(self, directory: Path, slots: int) -> None:
        self._died = directory / "tasks_which_died"
        path = directory / "tasks_running"
        self.deaths = Counter(self._lines() + _ids(path))
        if self.deaths:
            last = list(self.deaths.elements())[-_REMEMBERED:]
            self._died.write_text("".join(f"{each}\n" for each in last))
        with path.open("w+b") as file:
            file.truncate(slots * _WIDTH)
            self._memory = mmap.mmap(file.fileno(), slots * _WIDTH)

    def begin(self, slot: int, task_id: str) -> None:
        """Note that the thread with this slot runs a task."""
        self._memory[slot * _WIDTH : (slot + 1) * _WIDTH] = task_id.encode()

    def end(self, slot: int) -> None:
        """Note that it runs none."""
        self._memory[slot * _WIDTH : (slot + 1) * _WIDTH] = bytes(_WIDTH)

    def clear(self) -> None:
        """Note that we end on purpose: what still runs goes back to its queue."""
        self._memory[:] = bytes(len(self._memory))

    def _lines(self) -> list[str]:
        try:
            return self._died.read_text().split()
        except FileNotFoundError:
            return []


def _ids(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    slots = [data[at : at + _WIDTH] for at in range(0, len(data), _WIDTH)]
    return [each.decode("ascii", "replace") for each in slots if each.strip(b"\0")]
