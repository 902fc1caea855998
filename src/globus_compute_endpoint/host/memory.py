# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel has killed processes of ours for want of memory, and for which limit."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["OomWatch"]

_ROOT = Path("/sys/fs/cgroup")


class OomWatch:
    """Counts the kernel's OOM kills in this process's own control group, by its files.

    Both layouts of cgroups are read: ``memory.events`` of v2, ``memory.oom_control`` of v1.
    """

    def __init__(self, cgroup: Path = Path("/proc/self/cgroup"), root: Path = _ROOT) -> None:
        self._groups = _groups(cgroup, root)  # from our own to the outermost
        self._killed = self._count_killed()
        self._exceeded = self._count_exceeded()
        self._unexplained = 0

    def explain(self) -> str | None:
        """Say for which limit a process was killed, once for each; None if none was."""
        killed = self._count_killed()
        self._unexplained += killed - self._killed
        self._killed = killed
        if self._unexplained <= 0:
            return None
        self._unexplained -= 1
        before, self._exceeded = self._exceeded, self._count_exceeded()
        for group in self._groups:
            if self._exceeded[group] > before[group]:
                return f"the memory limit of {group.name}{_limit(group)} was reached"
        if self._groups and (limit := _limit(self._groups[0])):
            return f"the memory limit of {self._groups[0].name}{limit} was reached"
        return "the memory of the host was used up"

    def _count_killed(self) -> int:
        return _counter(self._groups[0], "oom_kill") if self._groups else 0

    def _count_exceeded(self) -> dict[Path, int]:
        return {group: _counter(group, "oom") for group in self._groups}


def _groups(cgroup: Path, root: Path) -> list[Path]:
    """Return the directories of a process's memory cgroup and of those around it."""
    found: dict[str, list[Path]] = {}
    for line in cgroup.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        inner = base / path.lstrip("/")
        around = [each for each in (inner, *inner.parents) if each.is_relative_to(base)]
        found[controllers] = [each for each in around if each != base]
    return found.get("memory") or found.get("", [])


def _counter(group: Path, name: str) -> int:
    for file in ("memory.events.local", "memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in (group / file).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
    return 0


def _limit(group: Path) -> str:
    for file in ("memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int((group / file).read_text())
            if limit < 1 << 60:  # v1 has a number for "none"
                return f" ({limit / (1 << 20):.0f} MiB)"
    return ""
