# SPDX-License-Identifier: Apache-2.0
"""Where tasks run, on each engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import ShellFunction

from engines.conftest import Started
from engines.test_globus_compute import ENGINE as HTEX
from engines.test_globus_compute import surroundings
from engines.test_pools import PROCESSES, THREADS, here

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

every = pytest.mark.parametrize(
    "options", [THREADS, PROCESSES, HTEX], ids=["threads", "processes", "htex"]
)


@every
@pytest.mark.parametrize("given", [None, "some/where", "/absolute"])
async def test_a_working_directory_is_made(
    started: Started, tmp_path: Path, options: dict[str, Any], given: str | None
):
    before = Path.cwd()
    wanted = tmp_path / (given or "tasks_working_dir").lstrip("/")
    chosen = {}
    if given is not None:
        chosen["working_dir"] = str(wanted) if given.startswith("/") else given
    async with started(options | chosen) as bench:
        assert await bench.value(here) == str(wanted)
        shell = await bench.value(ShellFunction("pwd"))
        assert shell.stdout.strip() == str(wanted)
    assert Path.cwd() == before


@pytest.mark.parametrize("options", [PROCESSES, HTEX], ids=["processes", "htex"])
async def test_a_sandbox_for_each_task(started: Started, tmp_path: Path, options: dict[str, Any]):
    chosen = {"run_in_sandbox": True, "working_dir": "boxes"}
    async with started(options | chosen) as bench:
        seen = [await bench.value(surroundings) for _ in range(2)]
        for uuid, sandbox, directory in seen:
            assert sandbox == directory == str(tmp_path / "boxes" / uuid)
        assert seen[0] != seen[1]
        shell = await bench.value(ShellFunction("echo $GC_TASK_SANDBOX_DIR; pwd"))
        sandbox, directory = shell.stdout.split()
        assert sandbox == directory != seen[1][1]
