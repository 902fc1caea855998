# SPDX-License-Identifier: Apache-2.0
"""For which limit the kernel killed a user endpoint, by what it counts in its control group.

See "Memory Interface Files" in the kernel's cgroup-v2.rst, and memory.rst on version 1.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MemoryWitness", "memory_cgroup", "usage_of"]

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # version 1 has no word for it, but the largest number of pages


@dataclass(frozen=True)
class Memory:
    """Counters of one control group.

    ``kills``: processes which the kernel killed for memory, with version 2 also in groups below.
    ``own``: how often this group's own limit was why (version 1: how often it was merely reached).
    ``below``: how often limits of groups below were (version 2 alone).
    """

    kills: int
    own: int
    below: int
    limit: int | None

    @classmethod
    def of(cls, group: Path) -> Memory | None:
        """The counters by now; None where the group, or its controller, is not there."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            if (group / "memory.oom_control").exists():
                kills = _table(group / "memory.oom_control").get("oom_kill", 0)
                reached = int((group / "memory.failcnt").read_text())
                most = int((group / "memory.limit_in_bytes").read_text())
                return cls(kills, reached, 0, most if most < _UNLIMITED else None)
            events = _table(group / "memory.events")
            own = _table(group / "memory.events.local")["oom"]
            word = (group / "memory.max").read_text().strip()
            limit = None if word == "max" else int(word)
            return cls(events["oom_kill"], own, events["oom"] - own, limit)
        return None


def memory_cgroup(path: str) -> Path:
    """The directory of the memory controller's group, by what systemd calls ControlGroup."""
    version_1 = _ROOT / "memory"
    return (version_1 if version_1.exists() else _ROOT) / path.lstrip("/")


def usage_of(group: Path) -> tuple[int | None, int | None]:
    """Bytes that a group of :func:`memory_cgroup` has now, and its processes; None: not known."""
    memory = processes = None
    with contextlib.suppress(OSError, ValueError):
        processes = len((group / "cgroup.procs").read_text().split())
        version_1 = group / "memory.usage_in_bytes"
        path = version_1 if version_1.exists() else group / "memory.current"
        memory = int(path.read_text())
    return memory, processes


class MemoryWitness:
    """Watches a user endpoint's group and the slice around it, from when it is made."""

    def __init__(self, group: Path) -> None:
        self._group = group
        self._slice = group.parent
        self._before = Memory.of(group), Memory.of(self._slice)

    def testify(self) -> str | None:
        """For which limit processes were killed; None where none was, or that is not known.

        The group is gone soon after its last process.
        """
        before, slice_before = self._before
        now, slice_now = Memory.of(self._group), Memory.of(self._slice)
        if slice_before is None or slice_now is None:
            return None
        kills, own = _grown(before, now)
        if now is None:  # version 2 has counted it in the slice, too
            kills = slice_now.kills - slice_before.kills
            own = slice_now.below - slice_before.below
        if not kills:
            return None
        limits = []
        if own and before and before.limit is not None:
            limits.append(f"the limit of the user endpoint (MemoryMax={_size(before.limit)})")
        if slice_now.own > slice_before.own and slice_now.limit is not None:
            limits.append(
                "the limit of all user endpoints of this local user"
                f" (MemoryMax={_size(slice_now.limit)} of {self._slice.name})"
            )
        # Version 1 counts, too, where a limit was reached and memory could be reclaimed.
        return " or ".join(limits) or "the memory of the whole host, or a limit above the user's"


def _grown(before: Memory | None, now: Memory | None) -> tuple[int, int]:
    if before is None or now is None:
        return 0, 0
    return now.kills - before.kills, now.own - before.own


def _table(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in lines}


def _size(number: int) -> str:
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)
