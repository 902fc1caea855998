# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a process in a host: who it is, where it is, what it may use."""

from __future__ import annotations

import re
from dataclasses import dataclass

from system.hosts import Host

SCOPE = re.compile(
    r"/(?P<slice>globus-compute-\d+\.slice)/(?P<scope>globus-compute-uep-[0-9a-f-]{36}\.scope)"
)


@dataclass(frozen=True)
class Process:
    """One process; sizes are in bytes."""

    pid: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    capabilities: int
    slice: str
    scope: str
    scope_memory: int
    slice_memory: int


def look_at(host: Host, pid: int) -> Process:
    """Read /proc and the process's cgroup. Raises ValueError for one outside our scopes."""
    status = dict(
        line.partition(":\t")[::2] for line in host.read(f"/proc/{pid}/status").splitlines()
    )
    cgroups = host.read(f"/proc/{pid}/cgroup").splitlines()
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in cgroups)}
    memory = paths.get("memory", paths.get("", ""))
    if not (place := SCOPE.search(memory)):
        raise ValueError(f"process {pid} is in no scope of an endpoint: {memory}")
    return Process(
        pid=pid,
        uids=tuple(map(int, status["Uid"].split())),
        gids=tuple(map(int, status["Gid"].split())),
        capabilities=int(status["CapEff"], 16) | int(status["CapPrm"], 16),
        slice=place["slice"],
        scope=place["scope"],
        scope_memory=memory_limit(host, paths, memory[: place.end()]),
        slice_memory=memory_limit(host, paths, memory[: place.end("slice")]),
    )


def memory_limit(host: Host, paths: dict[str, str], cgroup: str) -> int:
    if "memory" in paths:
        return int(host.read(f"/sys/fs/cgroup/memory{cgroup}/memory.limit_in_bytes"))
    return int(host.read(f"/sys/fs/cgroup{cgroup}/memory.max"))
