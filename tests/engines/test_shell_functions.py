# SPDX-License-Identifier: Apache-2.0
"""ShellFunctions on each engine: their output, their time, and what they leave."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from globus_compute_sdk import ShellFunction

from engines.conftest import Started
from engines.test_globus_compute import ENGINE

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(90)]

engines = pytest.mark.parametrize(
    "engine",
    [
        {"type": "ThreadPoolEngine", "max_workers": 2},
        {"type": "ProcessPoolEngine", "max_workers": 2},
        ENGINE,
    ],
    ids=["threads", "processes", "htex"],
)
SLOW = "1234.5"  # seconds


@pytest.fixture(autouse=True)
def nobody_sleeps_on() -> Iterator[None]:
    yield
    for each in sleepers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def sleepers() -> list[int]:
    processes = psutil.process_iter(["cmdline"])
    return [each.pid for each in processes if each.info["cmdline"] == ["sleep", SLOW]]


async def test_the_endpoints_time_ends_all_that_was_started(
    started: Started, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GC_TASK_TIMEOUT", "1")
    async with started({"type": "ProcessPoolEngine", "max_workers": 1}) as bench:
        code, text = await bench.error(ShellFunction(f"sleep {SLOW} & sleep {SLOW}"))
        assert code == "TaskTimeout"
        assert "ran longer than the 1 s" in text
        assert not sleepers()


async def test_what_ends_in_time_may_leave_something_running(started: Started):
    async with started({"type": "ProcessPoolEngine", "max_workers": 1}) as bench:
        command = f"nohup sleep {SLOW} >/dev/null 2>&1 & sleep 0.3; exit 3"
        result = await bench.value(ShellFunction(command, walltime=30, return_dict=True))
        assert result["returncode"] == 3
        assert len(sleepers()) == 1


@engines
async def test_output_in_files_of_choice_and_a_walltime_which_ends_all_that_was_started(
    started: Started, engine: dict[str, Any]
):
    if engine["type"] != "ThreadPoolEngine":
        engine = engine | {"run_in_sandbox": True}
    async with started(engine) as bench:
        slow = ShellFunction(f"echo begun; sleep {SLOW} & sleep {SLOW}", walltime=1)
        result = await bench.value(slow)
        assert (result.returncode, result.exception_name) == (124, "subprocess.TimeoutExpired")
        assert result.stdout == "begun\n"
        assert not sleepers()
        shell = ShellFunction("pwd; echo a >&2; exit 4", stdout="out/log", stderr="out/errors")
        result = await bench.value(shell)
        assert result.returncode == 4
        directory = Path(result.stdout.strip())
        assert (directory / "out/log").read_text() == result.stdout
        assert (directory / "out/errors").read_text() == result.stderr
        assert "a\n" in result.stderr
        assert ("sandboxing" in result.stderr) == ("run_in_sandbox" not in engine)
