# SPDX-License-Identifier: Apache-2.0
"""Batch jobs of a real Slurm, and what becomes of them when their user endpoint is killed."""

import os
from pathlib import Path

import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value
from support import slurm

pytestmark = [pytest.mark.timeout(150), pytest.mark.usefixtures("cluster")]

ENGINE = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  heartbeat_period: 2
  heartbeat_threshold: 10
  job_status_kwargs: {strategy_period: 1}
  provider: {type: SlurmProvider, exclusive: false, init_blocks: 2, max_blocks: 2}
"""


def begin(path: str, seconds: float) -> str:
    import os
    import time

    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"]


def kill(harness: Harness) -> None:
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()


def test_jobs_of_a_killed_endpoint_are_cancelled_by_the_next(harness: Harness, tmp_path: Path):
    begun = tmp_path / "begun"
    harness.start(ENGINE)
    tasks = [harness.submit(begin, str(begun), 300) for _ in range(2)]
    waiting = [harness.submit(begin, str(begun), 0) for _ in range(3)]
    harness.wait_for(lambda: begun.exists() and begun.read_text() == "xx", 60)
    names = slurm.jobs("%j")
    assert len(names) == 2
    assert all(harness.endpoint_id in each for each in names)
    earlier = set(slurm.jobs("%i"))
    kill(harness)
    assert set(slurm.jobs("%i")) == earlier
    harness.start(ENGINE)
    for each in tasks:
        code, _ = error_of(harness, each)
        assert code == "TaskInterrupted"
    assert earlier.isdisjoint([value(harness, each) for each in waiting])
    assert earlier.isdisjoint(slurm.jobs("%i"))
    assert begun.read_text() == "xxxxx"  # nothing twice
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    harness.wait_for(lambda: not slurm.jobs(), 10)


@pytest.mark.long
def test_jobs_of_a_killed_endpoint_end_by_themselves(harness: Harness, tmp_path: Path):
    begun = tmp_path / "begun"
    harness.start(ENGINE)
    for _ in range(2):
        harness.submit(begin, str(begun), 300)
    harness.wait_for(lambda: begun.exists() and begun.read_text() == "xx", 60)
    kill(harness)
    harness.wait_for(lambda: not slurm.jobs(), 40)


@pytest.mark.long
def test_a_job_which_nobody_has_noted_runs_nothing(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    killer = tmp_path / "bin/sbatch"
    killer.parent.mkdir()
    killer.write_text(
        f"#!/bin/sh\n/usr/bin/sbatch $*\nkill -KILL $(cat {tmp_path}/victim)\nsleep 9\n"
    )
    killer.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{killer.parent}:{os.environ['PATH']}")
        harness.start(ENGINE)
    assert harness.process is not None
    (tmp_path / "victim").write_text(str(harness.process.pid))
    task = harness.submit(begin, str(tmp_path / "begun"), 0)
    assert harness.exit_status() == -9
    (job,) = slurm.jobs("%i")
    harness.start(ENGINE)
    assert value(harness, task) != job
    harness.wait_for(lambda: job not in slurm.jobs("%i"), 40)
    said = [each.read_text() for each in harness.directory.glob("htex/*/submit_scripts/*.stderr")]
    assert sum("did not live to note its number" in each for each in said) == 1
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    harness.wait_for(lambda: not slurm.jobs(), 10)
