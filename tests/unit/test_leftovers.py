# SPDX-License-Identifier: Apache-2.0
"""What a task has left, known by its id in the environment, and ended."""

import contextlib
import os
import subprocess

import psutil
import pytest

from globus_compute_endpoint.worker import leftovers

SLEEP = ["sleep", "600"]


def test_what_ignores_the_polite_signal_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leftovers, "PATIENCE", 0.5)
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; sleep 600 & echo $!; sleep 600"],
        env=os.environ | {"GC_TASK_UUID": "the task"},
        stdout=subprocess.PIPE,
    )
    other = subprocess.Popen(SLEEP, env=os.environ | {"GC_TASK_UUID": "another task"})
    plain = subprocess.Popen(SLEEP)
    assert stubborn.stdout is not None
    below = int(stubborn.stdout.readline())
    leftovers.end_processes("the task")
    assert not psutil.pid_exists(stubborn.pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(below).status() == "zombie"
    for each in (other, plain):
        assert each.poll() is None
        each.kill()
        each.wait(10)
