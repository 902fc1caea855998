# SPDX-License-Identifier: Apache-2.0
"""``endpoint_setup`` and ``endpoint_teardown``, with a real shell."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.setup import run_script

TREE = Path(__file__).parents[2]


def failing(script: str, seconds: float = 20) -> Problem:
    with pytest.raises(Problem) as caught:
        run_script("endpoint_setup", script, seconds)
    assert caught.value.exit_status is ExitStatus.CONFIGURATION
    return caught.value


def gone(file: Path) -> bool:
    """Whether a process dies at once, though its new parent may not have looked yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(file.read_text()))
        deadline = time.monotonic() + 5  # SIGKILL has been sent; a busy machine needs its time
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


@pytest.mark.parametrize("script", [None, "", "  \n"])
def test_no_script_is_none(script: str | None):
    assert run_script("endpoint_setup", script, 20)


def test_a_script_runs_in_a_shell_of_its_own(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        assert run_script(
            "endpoint_setup", "export MADE=here\ncd /\necho one; echo two >&2; printf three", 20
        )
    assert "MADE" not in os.environ
    assert Path.cwd() != Path("/")
    for line in ("one", "two", "three"):
        assert f"endpoint_setup: {line}\n" in caplog.text


def test_a_failure_tells_what_it_said(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        problem = failing("seq 1 2000; echo no such channel >&2; exit 3")
    assert "endpoint_setup failed with exit status 3; it said: " in problem.message
    assert "no such channel" in problem.message
    assert len(problem.message) < 2100
    assert "endpoint_setup: 1\n" in caplog.text  # the log has all of it
    assert "was killed by SIGKILL" in failing("kill -9 $$").message


def test_a_script_which_does_not_end_is_ended(tmp_path: Path):
    began = time.monotonic()
    problem = failing(f"echo on my way; sleep 300 & echo $! >{tmp_path}/pid; wait", 0.5)
    assert "did not end within 0.5 s; it said: on my way" in problem.message
    assert time.monotonic() - began < 5
    assert gone(tmp_path / "pid")


def test_what_it_leaves_in_the_background_goes_on(tmp_path: Path):
    began = time.monotonic()
    assert run_script("endpoint_setup", f"sleep 300 & echo $! >{tmp_path}/pid", 20)
    assert time.monotonic() - began < 5  # although its output is still open
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    left.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_what_stops_an_endpoint_stops_its_script(tmp_path: Path, number: signal.Signals):
    program = (
        "from globus_compute_endpoint.user_endpoint.setup import run_script\n"
        f"print(run_script('endpoint_setup', 'echo $$ >{tmp_path}/new; mv {tmp_path}/new"
        f" {tmp_path}/pid; sleep 300', 20))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TREE / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.communicate(timeout=10)[0] == "False\n"
    assert gone(tmp_path / "pid")
