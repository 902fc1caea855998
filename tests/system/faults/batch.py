# SPDX-License-Identifier: Apache-2.0
"""What befalls batch jobs, and the scheduler which runs them."""

from __future__ import annotations

import random
import time

from system.faults.stage import Fault, Stage
from system.faults.user_endpoints import LOST

_AWAY = 15.0  # seconds


def _cancel_jobs(stage: Stage, rng: random.Random) -> None:
    jobs = stage.warm.host.run("squeue", "--noheader", "--format=%i").stdout.split()
    stage.warm.host.run("scancel", *jobs)


def _lose_node(stage: Stage, rng: random.Random) -> None:
    """The node of a job goes down, and all that runs there with it."""
    run = stage.warm.host.run
    nodes = run("squeue", "--noheader", "--states=running", "--format=%N").stdout.split()
    node = rng.choice(nodes)
    run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def _resume_nodes(stage: Stage) -> None:
    run = stage.warm.host.run
    for node in run("sinfo", "--noheader", "--states=down", "--Node", "--format=%N").stdout.split():
        run("scontrol", "update", f"nodename={node}", "state=resume")


def _signal_scheduler(stage: Stage, name: str) -> None:
    stage.warm.host.run("systemctl", "kill", f"--signal={name}", "test-slurmctld")


def _hang_scheduler(stage: Stage, rng: random.Random) -> None:
    _signal_scheduler(stage, "STOP")
    time.sleep(_AWAY)


def _wake_scheduler(stage: Stage) -> None:
    _signal_scheduler(stage, "CONT")


BATCH_FAULTS = [
    Fault("scancel of all batch jobs", _cancel_jobs, explains=LOST),
    Fault("a node of the cluster lost", _lose_node, _resume_nodes, explains=LOST).only_in_soaks(),
    Fault("slurmctld hangs", _hang_scheduler, _wake_scheduler).only_in_soaks(),
]
