# SPDX-License-Identifier: Apache-2.0
"""For which limit the kernel killed, by files as it writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from globus_compute_endpoint.manager.memory import MemoryWitness

GIB = 1 << 30
SLICE = "globus-compute-1001.slice"
OWN = "the limit of the user endpoint (MemoryMax=1G)"
USERS = f"the limit of all user endpoints of this local user (MemoryMax=3G of {SLICE})"
HOST = "the memory of the whole host, or a limit above the user's"


def version_1(group: Path, *, kills: int, own: int, limit: int, **_: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.oom_control").write_text(
        f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
    )
    (group / "memory.failcnt").write_text(f"{own}\n")
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")


def version_2(group: Path, *, kills: int, own: int, limit: int, below: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, oom in (("memory.events", own + below), ("memory.events.local", own)):
        (group / name).write_text(
            f"low 0\nhigh 0\nmax {oom}\noom {oom}\noom_kill {kills}\noom_group_kill 0\n"
        )
    (group / "memory.max").write_text(f"{limit}\n")


@pytest.mark.parametrize("write", [version_1, version_2])
@pytest.mark.parametrize(
    ("kills", "scope", "slice_", "expected"),
    [
        (0, 3, 0, None),  # reached, and that was all
        (1, 3, 0, OWN),
        (1, 0, 3, USERS),
        (1, 3, 3, f"{OWN} or {USERS}"),
        (1, 0, 0, HOST),
    ],
)
def test_the_limit_is_named(
    tmp_path: Path,
    write: Callable[..., None],
    kills: int,
    scope: int,
    slice_: int,
    expected: str | None,
) -> None:
    group = tmp_path / SLICE / "globus-compute-uep-x.scope"
    write(group.parent, kills=7, own=5, below=2, limit=3 * GIB)
    write(group, kills=0, own=0, limit=GIB)
    witness = MemoryWitness(group)
    assert witness.testify() is None
    below = 2 + (scope if kills else 0)
    write(group.parent, kills=7 + kills, own=5 + slice_, below=below, limit=3 * GIB)
    write(group, kills=kills, own=scope, limit=GIB)
    assert witness.testify() == expected


def test_version_2_tells_also_when_the_scope_is_gone(tmp_path: Path) -> None:
    group = tmp_path / SLICE / "globus-compute-uep-x.scope"
    version_2(group.parent, kills=7, own=5, below=2, limit=3 * GIB)
    version_2(group, kills=0, own=0, limit=GIB)
    witness = MemoryWitness(group)
    shutil.rmtree(group)
    assert witness.testify() is None
    version_2(group.parent, kills=8, own=5, below=3, limit=3 * GIB)
    assert witness.testify() == OWN


def test_without_a_controller_nothing_is_said(tmp_path: Path) -> None:
    assert MemoryWitness(tmp_path / "no" / "group").testify() is None
