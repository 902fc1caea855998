# SPDX-License-Identifier: Apache-2.0
"""Workers in containers of a real podman, which a user without any rights runs."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value
from support import podman, slurm
from support.waiting import until

pytestmark = pytest.mark.timeout(120)

ENGINE = f"""\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  job_status_kwargs: {{strategy_period: 1, max_idletime: 3}}
  provider: {{type: LocalProvider, init_blocks: 0}}
  container_type: podman
  container_uri: {podman.IMAGE}
"""
BATCH = f"""\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: {podman.ADDRESS}
  heartbeat_threshold: 60
  job_status_kwargs: {{strategy_period: 1}}
  provider:
    type: SlurmProvider
    exclusive: false
    init_blocks: 0
    launcher: {{type: SrunLauncher}}
  container_type: podman
  container_uri: {podman.IMAGE}
"""
AS_USER = ("setpriv", "--reuid", podman.USER, "--regid", podman.USER, "--init-groups")


def where(number: int) -> tuple[int, int, str, bool]:
    import os
    import pathlib

    pathlib.Path("was-here").touch()
    return number, os.getuid(), os.getcwd(), pathlib.Path("/run/.containerenv").exists()


def linger(seconds: float) -> str:
    import pathlib
    import time

    pathlib.Path("begun").touch()
    time.sleep(seconds)
    return "done"


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    podman.set_up()


def of_the_user(*more: str) -> Iterator[Harness]:
    made = Harness(podman.home(), wrapper=[*AS_USER, *more], environment=podman.environment())
    yield made
    made.close()
    podman.podman("rm", "--force", "--time", "0", "--all")
    shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture
def harness() -> Iterator[Harness]:
    yield from of_the_user()


@pytest.fixture
def without_setuid() -> Iterator[Harness]:
    yield from of_the_user("--no-new-privs")


def test_tasks_run_in_a_container_which_goes_when_its_block_does(harness: Harness):
    harness.start(ENGINE)
    directory = harness.directory / "tasks_working_dir"
    tasks = {harness.submit(where, each): each for each in range(20)}
    for task, number in tasks.items():
        assert value(harness, task) == (number, 0, str(directory), True)
        assert "start_mark" not in (harness.results[task].details or {})
    assert (directory / "was-here").owner() == podman.USER  # root within is the user without
    (container,) = podman.containers()
    told = podman.podman("inspect", container, "--format", "{{json .Config.Labels}}").stdout
    assert harness.endpoint_id in told.decode()
    until(lambda: not podman.containers(), 20)  # scaled in
    assert value(harness, harness.submit(where, 20))[0] == 20
    assert podman.containers() != [container]
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    assert podman.containers() == []


def test_a_killed_endpoints_container_goes_with_the_next_one(harness: Harness):
    harness.start(ENGINE)
    task = harness.submit(linger, 300)
    until((harness.directory / "tasks_working_dir/begun").exists, 30)
    (container,) = podman.containers()
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()
    assert podman.containers() == [container]
    harness.start(ENGINE)
    code, _ = error_of(harness, task)
    assert code == "TaskInterrupted"
    assert value(harness, harness.submit(where, 1))[0] == 1
    assert container not in podman.containers()
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    assert podman.containers() == []


def test_without_setuid_programs_it_is_refused(without_setuid: Harness):
    without_setuid.start(ENGINE)
    without_setuid.wait_for(lambda: without_setuid.heartbeats)
    text = without_setuid.heartbeats[-1].global_state["error"]  # which researchers get to see
    assert "engine.container_type (line 6): podman cannot run here" in text
    assert "`no_new_privs: false`" in text
    assert without_setuid.exit_status() != 0


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_a_batch_jobs_container_goes_with_it(harness: Harness):
    directory = harness.directory / "tasks_working_dir"
    harness.start(BATCH)
    task = harness.submit(linger, 300)
    until((directory / "begun").exists, 40)
    (container,) = podman.containers()
    (job,) = slurm.jobs("%i")
    subprocess.run(["scancel", job], check=True)
    until(lambda: container not in podman.containers(), 10)
    code, text = error_of(harness, task)
    assert code == "WorkerLost"
    assert f"Batch job {job} " in text
    assert value(harness, harness.submit(where, 1)) == (1, 0, str(directory), True)
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    until(lambda: podman.containers() == [], 10)
