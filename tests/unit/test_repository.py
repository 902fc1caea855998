# SPDX-License-Identifier: Apache-2.0
"""What must hold of the repository's own files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TREE = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Their formats have no room for a comment, or they are the licence itself.
WITHOUT_LICENSE_LINE = {"LICENSE", ".json", ".typed", "format", "changelog"}


def pinned(name: str) -> dict[str, str]:
    lock = (TREE / f"requirements/{name}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", lock, re.MULTILINE))


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("endpoint", PROJECT["dependencies"] + EXTRAS["system"]),
        ("services", EXTRAS["services"]),
        ("dev", PROJECT["dependencies"] + EXTRAS["system"] + EXTRAS["services"]),
    ],
)
def test_locks_hold_what_the_project_asks_for(lock: str, wanted: list[str]) -> None:
    pins = pinned(lock)
    missing = [
        str(requirement)
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), ""))
    ]
    assert not missing, f"requirements/{lock}.lock is out of date: run 'make lock'"


@pytest.mark.parametrize("lock", ["endpoint", "services"])
def test_what_is_packaged_is_what_is_tested(lock: str) -> None:
    tested = pinned("dev")
    assert {name: version for name, version in pinned(lock).items() if name in tested} == {
        name: version for name, version in tested.items() if name in pinned(lock)
    }
    assert not pinned(lock).keys() - tested.keys()


def test_services_need_nothing_of_the_endpoint() -> None:
    assert not pinned("services").keys() & {"parsl", "globus-compute-sdk"}


def test_files_begin_with_their_license() -> None:
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=TREE, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    without = [
        name
        for name in filter(None, files)
        if not {Path(name).suffix, Path(name).name} & WITHOUT_LICENSE_LINE
        and "config/defaults" not in name  # they become the administrator's own
        and (TREE / name).is_file()
        and "SPDX-License-Identifier: Apache-2.0"
        not in "".join((TREE / name).read_text().splitlines(keepends=True)[:3])
    ]
    assert not without
