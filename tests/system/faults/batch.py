# SPDX-License-Identifier: Apache-2.0
"""What befalls batch jobs, and the scheduler which runs them."""

from __future__ import annotations

import random
import time

from support.waiting import until
from system.faults.stage import Fault, Stage
from system.faults.user_endpoints import LOST

_AWAY = 15.0  # seconds


def _jobs(stage: Stage, *options: str) -> list[str]:
    """What squeue tells of the load's jobs; there may be none for a moment."""

    def listed() -> list[str]:
        return stage.warm.host.run("squeue", "--noheader", *options).stdout.split()

    return until(listed)


def _cancel_jobs(stage: Stage, rng: random.Random) -> None:
    # Some may end by themselves meanwhile, at which scancel fails.
    stage.warm.host.run("scancel", *_jobs(stage, "--format=%i"), check=False)


def _lose_node(stage: Stage, rng: random.Random) -> None:
    """The node of a job goes down, and all that runs there with it."""
    node = rng.choice(_jobs(stage, "--states=running", "--format=%N"))
    stage.warm.host.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


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
