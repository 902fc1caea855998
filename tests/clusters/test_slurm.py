# SPDX-License-Identifier: Apache-2.0
"""Tasks on a real Slurm: blocks of several nodes, scaling, and whatever ends a job too early."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value

pytestmark = [pytest.mark.timeout(150), pytest.mark.usefixtures("cluster")]

# The interchange's own patience is long: what is noticed soon, is by other means.
ENGINE = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  max_retries_on_system_failure: {retries}
  heartbeat_period: 2
  heartbeat_threshold: 60
  job_status_kwargs: {{strategy_period: 1, max_idletime: {idle}}}
  provider:
    type: SlurmProvider
    exclusive: false
    init_blocks: 0
    max_blocks: {blocks}
    nodes_per_block: {nodes}
    launcher: {{type: {launcher}}}
    scheduler_options: "{options}"
    walltime: "{walltime}"
    worker_init: echo this block has begun >&2
"""


def engine(
    *,
    retries: int = 0,
    blocks: int = 1,
    nodes: int = 1,
    launcher: str = "SimpleLauncher",
    idle: float = 120,
    options: str = "",
    walltime: str = "00:10:00",
) -> str:
    return ENGINE.format(**locals())


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)


def work(path: str, first: float, later: float = 0) -> tuple[str, str]:
    """Sleep in the first attempt and in the later ones, and tell in which job and on which node."""
    import os
    import time

    with open(path, "a") as file:
        file.write(os.environ["SLURM_JOB_ID"] + "\n")
        begun = file.tell() > len(os.environ["SLURM_JOB_ID"]) + 1
    time.sleep(later if begun else first)
    return os.environ["SLURM_JOB_ID"], os.environ["SLURMD_NODENAME"]


def begun(harness: Harness, *paths: Path) -> list[str]:
    """Wait until tasks have begun, and return the jobs in which they did first."""
    harness.wait_for(lambda: all(each.exists() and each.read_text() for each in paths), 60)
    return [each.read_text().split()[0] for each in paths]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_job_cancelled_in_mid_run(harness: Harness, tmp_path: Path, retries: int):
    harness.start(engine(retries=retries))
    path = tmp_path / "task"
    task = harness.submit(work, str(path), 300)
    (job,) = begun(harness, path)
    run("scancel", job)
    if retries:
        again, _ = value(harness, task)
        assert again != job
    else:
        code, text = error_of(harness, task)
        assert code == "WorkerLost"
        assert re.match(rf"Batch job {job} on \S+ was cancelled \(Slurm: CANCELLED\)", text)
        assert "this block has begun" in text
