# SPDX-License-Identifier: Apache-2.0
"""``status`` of an endpoint of one's own, and what the SDK's get_endpoint_status says meanwhile."""

import json
import subprocess
import sys
from typing import Any

import pytest

from endpoint.personal import Person

pytestmark = pytest.mark.timeout(120)

CONFIG = "engine: {type: ProcessPoolEngine, max_workers: 1}\nheartbeat_period: 1\n"
# Two at once might both make the SDK's file of tokens.
FIRST = """
from globus_compute_sdk import Client
Client()
print("null")
"""
WORK = """
import sys
from globus_compute_sdk import Executor

def nap():
    import time
    time.sleep(60)

with Executor(endpoint_id=sys.argv[1]) as executor:
    for each in [executor.submit(nap) for _ in range(3)]:
        each.result()
"""
LOOK = """
import json, sys, time
from globus_compute_sdk import Client
client = Client()
while True:
    told = client.get_endpoint_status(sys.argv[1])
    # Not at the first heartbeat with all three: it may come before the engine has them.
    details = told["details"]
    if (details.get("outstanding_tasks"), details.get("idle_workers")) == (3, 0):
        print(json.dumps(told))
        break
    time.sleep(0.2)
"""


def shown(site: Person, *, exit_status: int = 0) -> dict[str, Any]:
    done = site.run("status", "mine", "--json")
    assert done.returncode == exit_status, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_an_endpoint_from_its_first_day_to_its_stop(site: Person) -> None:
    site.configure("mine", CONFIG)
    assert shown(site, exit_status=3)["state"] == "Initialized"
    endpoint_id = site.told("start", "mine").split()[-1]
    site.research(FIRST, endpoint_id)
    command = [sys.executable, "-c", WORK, endpoint_id]
    with subprocess.Popen(command, env=site.environment, cwd=site.home) as researcher:
        told = site.research(LOOK, endpoint_id)
        seen = shown(site)
        text = site.told("status", "mine")
        site.told("stop", "mine")
        stopped = shown(site, exit_status=3)
        researcher.kill()
    assert told["status"] == "online"
    figures = {
        "engine_type": "ProcessPoolEngine",
        "total_workers": 1,
        "idle_workers": 0,
        "pending_tasks": 2,
        "outstanding_tasks": 3,
    }
    assert {name: told["details"][name] for name in figures} == figures
    assert (seen["state"], seen["kind"], seen["endpoint_id"]) == (
        "Running",
        "endpoint",
        endpoint_id,
    )
    (itself,) = seen["user_endpoints"]
    assert itself["pid"] == seen["pid"]
    tasks = {name: itself[f"{name}_tasks"] for name in ("outstanding", "running", "queued", "done")}
    assert tasks == {"outstanding": 3, "running": 1, "queued": 2, "done": 0}
    assert itself["heartbeat"] is not None
    assert "tasks: 1 running, 2 queued, 0 done" in text
    assert "\x1b" not in text  # colours are for terminals
    assert (stopped["state"], stopped["pid"], stopped["waiting_tasks"]) == ("Stopped", None, 3)
    assert stopped["text"] == "its last life ended: it was stopped (SIGTERM received)"


def test_no_such_endpoint(site: Person) -> None:
    done = site.run("status", "nowhere")
    assert done.returncode == 78
    assert "there is no endpoint nowhere" in done.stderr
