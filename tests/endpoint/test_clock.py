# SPDX-License-Identifier: Apache-2.0
"""The clock of an endpoint's host is set by an hour, forward and back, while a task runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from endpoint.conftest import rabbitmqctl
from endpoint.personal import Person
from support.clock import Clock
from support.waiting import until

HOUR = 3600

# Says when its task has begun, then waits for it to end.
_WAITS = """
import json, sys
from globus_compute_sdk import Executor

def waits(directory):
    import pathlib, select, time
    directory = pathlib.Path(directory)
    (directory / "begun").touch()
    deadline = time.monotonic() + 60
    while not (directory / "go on").exists() and time.monotonic() < deadline:
        select.select([], [], [], 0.05)  # faketime breaks sleep()
    return time.time()

with Executor(endpoint_id=sys.argv[1]) as executor:
    print(json.dumps(executor.submit(waits, sys.argv[2]).result(100)))
"""


@pytest.mark.timeout(150)
@pytest.mark.long
def test_tasks_connections_and_registration_bear_it(site: Person, tmp_path: Path):
    clock = Clock(tmp_path / "offset")
    site.configure("mine", "engine: {type: ThreadPoolEngine}\nheartbeat_period: 1\n")
    endpoint_id = site.told("start", "mine", **clock.environment).split()[-1]
    script = tmp_path / "research.py"
    script.write_text(_WAITS)
    research = subprocess.Popen(
        [sys.executable, str(script), endpoint_id, str(tmp_path)],
        env=site.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    log = site.endpoints / "mine" / "endpoint.log"
    try:
        until((tmp_path / "begun").exists, 60)
        for step in (HOUR, -HOUR):
            clock.step(step)
            time.sleep(2.5)  # two heartbeats, and what may go wrong with one
        assert log.read_text().count("connected to") == 2
        # Fresh credentials can be had in that state, too.
        rabbitmqctl("delete_user", f"ep.{endpoint_id}")
        until(lambda: log.read_text().count("Taking tasks from") == 2)
        (tmp_path / "go on").touch()
        said, _ = research.communicate(timeout=60)
    finally:
        research.kill()
    # The task saw that clock, and ran once.
    assert abs(json.loads(said) - ((tmp_path / "go on").stat().st_mtime - HOUR)) < 60
    assert site.status("mine") == "Running"
