# SPDX-License-Identifier: Apache-2.0
"""What heartbeats tell of blocks which a real Slurm queues and runs."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from endpoint.harness import Harness
from support import slurm

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("cluster")]

# A node has two CPUs, and a block takes both of one: the fifth waits.
ENGINE = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  address: 127.0.0.1
  prefetch_capacity: 1
  job_status_kwargs: {strategy_period: 0.5, max_idletime: 600}
  provider:
    type: SlurmProvider
    cores_per_node: 2
    init_blocks: 5
    min_blocks: 1
    max_blocks: 5
heartbeat_period: 0.5
"""


def wait_for(path: str) -> None:
    import pathlib
    import time

    while not pathlib.Path(path).exists():
        time.sleep(0.1)


def figures(harness: Harness) -> dict[str, Any]:
    return harness.heartbeats[-1].global_state if harness.heartbeats else {}


def asked(harness: Harness) -> dict[str, Any]:
    """What it answers its manager, for ``status``."""
    reports: list[dict[str, Any]] = []

    def heard() -> bool:
        reports.extend(each["report"] for each in harness.frames() if "report" in each)
        return bool(reports)

    harness.tell({"type": "report"})
    harness.wait_for(heard, 10)
    return reports[0]


def test_heartbeats_tell_of_blocks_jobs_and_tasks(harness: Harness, tmp_path: Path):
    gate = tmp_path / "gate"
    began = int(time.time())
    harness.start(ENGINE)
    tasks = [harness.submit(wait_for, str(gate)) for _ in range(11)]
    harness.wait_for(lambda: figures(harness).get("managers") == 4, 60)
    # A pool which has just connected has workers, and no tasks yet.
    harness.wait_for(lambda: sum(each["tasks"] for each in figures(harness)["jobs"]) == 11, 10)
    told = figures(harness)
    expected = {
        "engine_type": "GlobusComputeEngine",
        "total_workers": 8,
        "idle_workers": 0,
        "pending_tasks": 3,
        "outstanding_tasks": 11,
        "blocks_running": 4,
        "blocks_pending": 1,
        "min_blocks": 1,
        "max_blocks": 5,
        "scaling_enabled": True,
        "nodes": 4,
        "nodes_per_block": 1,
        "prefetch_capacity": 1,
        "jobs_not_shown": 0,
    }
    assert {name: told[name] for name in expected} == expected
    states = {"PD": "PENDING", "R": "RUNNING"}
    queue = {job: states[state] for job, state in map(str.split, slurm.jobs("%i %t"))}
    assert {each["job_id"]: each["state"] for each in told["jobs"]} == queue
    assert sorted(queue.values()) == ["PENDING", *["RUNNING"] * 4]
    for job in told["jobs"]:
        running = job["state"] == "RUNNING"
        assert job["hosts"] == ([socket.gethostname()] if running else [])
        assert (job["pools"], job["workers"]) == ((1, 2) if running else (0, 0))
        assert began <= job["since"] <= time.time()
    assert asked(harness)["engine"]["jobs"] == told["jobs"]
    gate.touch()
    for each in tasks:
        assert harness.result(each).error_details is None
    harness.wait_for(lambda: figures(harness)["outstanding_tasks"] == 0, 10)
    assert figures(harness)["idle_workers"] == figures(harness)["total_workers"]
    assert figures(harness)["pending_tasks"] == 0
