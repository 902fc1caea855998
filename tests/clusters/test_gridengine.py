# SPDX-License-Identifier: Apache-2.0
"""GridEngineProvider with a real Grid Engine."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from parsl.providers import GridEngineProvider

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value
from globus_compute_endpoint.engines.batch_jobs import cancel_jobs, correct_cancelling
from support import gridengine

pytestmark = [pytest.mark.timeout(150), pytest.mark.usefixtures("grid_engine")]

ENGINE = f"""\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  heartbeat_period: 2
  heartbeat_threshold: 10
  job_status_kwargs: {{strategy_period: 1}}
  provider:
    type: GridEngineProvider
    queue: all.q
    init_blocks: 1
    max_blocks: 1
    scheduler_options: "#$ -l h_vmem=INFINITY"
    worker_init: export PATH={Path(sys.executable).parent}:$PATH
"""


@pytest.fixture(scope="module")
def grid_engine() -> Iterator[None]:
    with gridengine.cluster():
        yield


def begin(path: str, seconds: float) -> tuple[str, str]:
    import os
    import time

    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)
    return os.environ["JOB_ID"], os.environ["JOB_NAME"]


def test_jobs_are_named_end_with_the_endpoint_and_those_of_a_killed_one_are_cancelled(
    harness: Harness, tmp_path: Path
):
    begun = tmp_path / "begun"
    harness.start(ENGINE)
    task = harness.submit(begin, str(begun), 300)
    harness.wait_for(lambda: begun.exists() and begun.read_text() == "x", 60)
    (earlier,) = gridengine.jobs()
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()
    assert list(gridengine.jobs()) == [earlier]
    harness.start(ENGINE)
    code, _ = error_of(harness, task)
    assert code == "TaskInterrupted"
    job_id, name = value(harness, harness.submit(begin, str(begun), 0))
    assert job_id != earlier
    assert harness.endpoint_id in name
    assert gridengine.jobs() == {job_id: name}
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    harness.wait_for(lambda: not gridengine.jobs(), 10)


def test_why_no_job_can_run_a_task_is_in_its_error(harness: Harness):
    programs = f"export PATH={Path(sys.executable).parent}:$PATH"
    harness.start(ENGINE.replace(programs, "unset PYTHONPATH"))
    task = harness.submit(begin, "/dev/null", 0)
    harness.result(task, 60)
    _, text = error_of(harness, task)
    assert "The worker environment does not fit: it has no Parsl" in text
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    harness.wait_for(lambda: not gridengine.jobs(), 20)


def test_a_job_of_an_earlier_life_which_is_gone_needs_no_cancelling():
    provider = GridEngineProvider()
    correct_cancelling(provider)
    gone: list[str] = []
    assert cancel_jobs(provider, ["99999"], gone.append) == ()
    assert gone == ["99999"]
