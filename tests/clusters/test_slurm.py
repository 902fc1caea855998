# SPDX-License-Identifier: Apache-2.0
"""Tasks on a real Slurm: blocks of several nodes, scaling, and whatever ends a job too early."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value
from support import slurm
from support.waiting import until

pytestmark = [pytest.mark.timeout(150), pytest.mark.usefixtures("idle_cluster")]

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
    exclusive: true
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


@pytest.fixture
def idle_cluster(cluster: None) -> None:
    """Slurm, without jobs of an earlier test, which it may still be clearing up."""
    until(lambda: not slurm.jobs(), 60)


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Harness]:
    home = tmp_path / "another"
    home.mkdir()
    made = Harness(home)
    yield made
    made.close()


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


def begin(harness: Harness, directory: Path, *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Have long tasks begin; return them and their jobs by their names."""
    paths = [directory / each for each in names]
    tasks = [harness.submit(work, str(each), 300) for each in paths]
    return dict(zip(names, tasks, strict=True)), dict(
        zip(names, begun(harness, *paths), strict=True)
    )


def begun(harness: Harness, *paths: Path) -> list[str]:
    """Wait until tasks have begun, and return the jobs in which they did first."""
    harness.wait_for(lambda: all(each.exists() and each.read_text() for each in paths), 60)
    return [each.read_text().split()[0] for each in paths]


def kill_script_child(job: str) -> None:
    """Kill what the script of a job has started, as the kernel may, for want of memory."""
    name = f"[{job}.batch]"
    steps = [each for each in psutil.process_iter() if name in " ".join(command_of(each))]
    assert len(steps) == 1
    for each in steps[0].children(recursive=True):
        if "--block_id" in " ".join(command_of(each)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


RETRIES = pytest.mark.parametrize("retries", [0, 1])
ENDS = {
    "cancelled": r"was cancelled \(Slurm: CANCELLED\)",
    "lost": r"has lost a node \(Slurm: NODE_FAIL\b.*\)",
    "killed": r"has failed \(Slurm: FAILED, NonZeroExitCode\)",
    "late": r"reached its time limit \(Slurm: TIMEOUT, TimeLimit\)",
    "forgotten": "has ended, and Slurm knows it no more",
}


def check_ends(
    harness: Harness, tasks: dict[str, str], jobs: dict[str, str], *, retries: int, seconds: float
) -> None:
    """Have tasks tried again in other jobs, or fail with how theirs have ended."""
    for name, task in tasks.items():
        harness.result(task, seconds)
        if retries:
            job, _ = value(harness, task)
            assert job not in jobs.values()
            continue
        code, text = error_of(harness, task)
        assert code == "WorkerLost"
        lines = text.splitlines()
        how = re.fullmatch(rf"Batch job (\d+) on \S+ {ENDS[name]}\. .* is in (/\S+)", lines[0])
        assert how, text
        assert how[1] == jobs[name]
        assert "this block has begun" in Path(how[2]).read_text()
        assert "  this block has begun" in lines


@RETRIES
def test_jobs_which_end_too_early(harness: Harness, tmp_path: Path, retries: int):
    harness.start(engine(retries=retries, blocks=3))
    tasks, jobs = begin(harness, tmp_path, "cancelled", "lost", "killed")
    node = dict(line.split() for line in slurm.jobs("%i %N"))[jobs["lost"]]
    run("scancel", jobs["cancelled"])
    kill_script_child(jobs["killed"])
    slurm.mark_down(node)
    try:
        check_ends(harness, tasks, jobs, retries=retries, seconds=40)
    finally:
        slurm.resume(node)


@pytest.mark.long
@RETRIES
def test_a_node_without_power(harness: Harness, tmp_path: Path, retries: int):
    harness.start(engine(retries=retries))
    tasks, jobs = begin(harness, tmp_path, "lost")
    (node,) = slurm.jobs("%N")
    slurm.lose_node(node)
    try:
        check_ends(harness, tasks, jobs, retries=retries, seconds=60)
    finally:
        slurm.start_node(node)


def test_a_controller_which_was_away(harness: Harness, tmp_path: Path):
    away(harness, tmp_path, retries=0, seconds=3)


@pytest.mark.long
def test_a_controller_away_for_a_minute(harness: Harness, tmp_path: Path):
    away(harness, tmp_path, retries=1, seconds=60)


def away(harness: Harness, tmp_path: Path, *, retries: int, seconds: float) -> None:
    """Have the controller away: what runs goes on, what waits gets a block afterwards."""
    harness.start(engine(retries=retries, blocks=2))
    first, second = tmp_path / "first", tmp_path / "second"
    running = harness.submit(work, str(first), seconds / 2)
    (job,) = begun(harness, first)
    slurm.stop_controller()
    try:
        beside = harness.submit(work, str(second), 300)
        assert value(harness, running)[0] == job  # and then the other in the same block
        waiting = harness.submit(work, str(tmp_path / "third"), 0)
        harness.pause(seconds)
    finally:
        slurm.start_controller()
    assert value(harness, waiting)[0] != job
    assert second.read_text().split() == [job]
    assert beside not in harness.results
    assert job in slurm.jobs("%i")


@pytest.mark.long
def test_a_controller_which_forgets(harness: Harness, tmp_path: Path):
    harness.start(engine())
    tasks, jobs = begin(harness, tmp_path, "forgotten")
    slurm.stop_controller()
    slurm.start_controller(forget=True)
    check_ends(harness, tasks, jobs, retries=0, seconds=40)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_time_limits(harness: Harness, another: Harness, tmp_path: Path):
    begins = []
    for each, retries in ((harness, 0), (another, 1)):
        each.start(engine(retries=retries, walltime="00:01:00"))
        directory = tmp_path / str(retries)
        directory.mkdir()
        begins.append((each, retries, *begin(each, directory, "late")))
    for each, retries, tasks, jobs in begins:
        check_ends(each, tasks, jobs, retries=retries, seconds=150)


def test_blocks_of_two_nodes_come_and_go(harness: Harness, tmp_path: Path):
    options = "#SBATCH --comment=hello"
    harness.start(engine(nodes=2, blocks=2, launcher="SrunLauncher", idle=1, options=options))
    tasks = [harness.submit(work, str(tmp_path / str(n)), 3) for n in range(4)]
    places = [value(harness, each) for each in tasks]
    assert len({job for job, _ in places}) == 2
    assert {node for _, node in places} == {"n1", "n2", "n3", "n4"}
    harness.wait_for(lambda: not slurm.jobs(), 30)
    begin(harness, tmp_path, "later")
    assert slurm.jobs("%k %D") == ["hello 2"]
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    harness.wait_for(lambda: not slurm.jobs(), 10)


@pytest.mark.long
def test_blocks_which_cannot_begin(harness: Harness, tmp_path: Path):
    harness.start(engine().replace("this block has begun >&2", "no such module >&2; exit 3"))
    code, text = error_of(harness, harness.submit(work, str(tmp_path / "task"), 0))
    assert code == "NoWorkers"
    lines = text.splitlines()
    told = (
        r"The last 3 blocks .* have failed: the newest, batch job \d+: has failed \(Slurm: FAILED"
    )
    assert re.match(told, lines[0])
    path = Path(lines[1].removeprefix("Its standard error is in "))
    assert path.read_text() == "no such module\n"
    assert lines[2] == "stderr: no such module"


@pytest.mark.long
def test_a_block_which_is_drained_loses_no_task(harness: Harness, tmp_path: Path):
    harness.start(engine().replace("\n  provider", "\n  drain_period: 6\n  provider"))
    first = harness.submit(work, str(tmp_path / "first"), 12)
    (job,) = begun(harness, tmp_path / "first")
    harness.pause(8)
    second = harness.submit(work, str(tmp_path / "second"), 0)
    assert value(harness, first)[0] == job
    assert value(harness, second)[0] != job


def leave() -> None:
    import os

    os._exit(3)


@pytest.mark.long
def test_a_worker_which_dies_tells_its_job(harness: Harness):
    harness.start(engine())
    code, text = error_of(harness, harness.submit(leave))
    (job,) = slurm.jobs("%i")
    assert code == "WorkerLost"
    lines = text.splitlines()
    assert "WorkerLost: Task failure due to loss of worker 0 on host" in lines[0]
    assert re.match(rf"It ran in batch job {job} on \S+\. Its standard error is in /", lines[2])


def stay_in_pool(path: str) -> None:
    import os
    import time

    with open(path, "w") as file:
        file.write(str(os.getppid()))
    time.sleep(300)


@pytest.mark.long
def test_a_pool_which_dies_in_a_block_that_goes_on(harness: Harness, tmp_path: Path):
    harness.start(engine(nodes=2, launcher="SrunLauncher"))
    paths = [tmp_path / each for each in ("one", "two")]
    victim, other = (harness.submit(stay_in_pool, str(each)) for each in paths)
    pool, _ = begun(harness, *paths)
    (job,) = slurm.jobs("%i")
    psutil.Process(int(pool)).kill()
    harness.result(victim, 45)  # its heartbeats would be waited for longer
    code, text = error_of(harness, victim)
    assert code == "WorkerLost"
    assert re.search(rf"^It ran in batch job {job} on \S+, which has not ended", text, re.M), text
    assert slurm.jobs("%i") == [job]
    assert other not in harness.results
