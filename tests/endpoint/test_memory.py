# SPDX-License-Identifier: Apache-2.0
"""A user endpoint whose memory is limited by systemd, and a task which wants more."""

import subprocess

import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import PROCESSES, add, error_of, value

pytestmark = pytest.mark.timeout(90)

LIMIT = 400  # MiB


def hog(size: int) -> int:
    return len(b"x" * size)


def limit(pid: int, scope: str) -> None:
    """Have systemd put a process into a scope with little memory."""
    manager = "org.freedesktop.systemd1"
    call = ["busctl", "call", manager, "/org/freedesktop/systemd1", f"{manager}.Manager"]
    properties = ["2", "PIDs", "au", "1", str(pid), "MemoryMax", "t", str(LIMIT << 20)]
    signature = "ssa(sv)a(sa(sv))"
    unit = ["StartTransientUnit", signature, scope, "fail", *properties, "0"]
    subprocess.run([*call, *unit], check=True, timeout=20, stdout=subprocess.DEVNULL)


def test_a_task_which_wants_more_memory_than_there_is_learns_of_the_limit(harness: Harness):
    harness.start(PROCESSES)
    assert harness.process is not None
    scope = f"memory-{harness.endpoint_id}.scope"
    limit(harness.process.pid, scope)
    other = harness.submit(add, 1, 2)
    code, text = error_of(harness, harness.submit(hog, 2 * LIMIT << 20))
    assert code == "WorkerLost"
    assert f"the memory limit of {scope} ({LIMIT} MiB) was reached" in text
    assert value(harness, other) == 3
    assert value(harness, harness.submit(add, 2, 2)) == 4
