# SPDX-License-Identifier: Apache-2.0
"""GlobusMPIEngine on a real Slurm: MPI tasks which share a block, each on nodes of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import MPIFunction

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value
from support import slurm

pytestmark = pytest.mark.timeout(150)

ENGINE = """\
engine:
  type: GlobusMPIEngine
  mpi_launcher: srun
  max_workers_per_block: 3
  address: 127.0.0.1
  heartbeat_period: 2
  heartbeat_threshold: 10
  run_in_sandbox: true
  job_status_kwargs: {strategy_period: 1}
  provider: {type: SlurmProvider, nodes_per_block: 3, init_blocks: 1, max_blocks: 1}
"""
RANKS = MPIFunction("sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME'")


@pytest.fixture(scope="module")
def mpi(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """An endpoint with one block of three nodes, for all tests in here."""
    harness = Harness(tmp_path_factory.mktemp("mpi"))
    harness.start(ENGINE)
    yield harness
    harness.close()


def submit(harness: Harness, function: Any, *args: Any, spec: Any, **kwargs: Any) -> str:
    headers = {"resource_specification": json.dumps(spec)}
    return harness.submit(function, *args, headers=headers, **kwargs)


def ranks_of(result: Any) -> dict[str, list[int]]:
    """Return which ranks ran on which node."""
    assert result.returncode == 0, result
    found: dict[str, list[int]] = {}
    for rank, node in sorted(line.split() for line in result.stdout.splitlines()):
        found.setdefault(node, []).append(int(rank))
    return found


def steps() -> list[str]:
    """The steps of jobs, but for their scripts and what Slurm itself has for each."""
    listed = subprocess.run(
        ["squeue", "--steps", "--noheader", "--format=%i"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return [each for each in listed.stdout.split() if each.rpartition(".")[2].isdecimal()]


def test_ranks_are_spread_over_nodes(mpi: Harness):
    several = submit(mpi, RANKS, spec={"num_nodes": 2, "ranks_per_node": 2})
    all_nodes = submit(mpi, RANKS, spec={"num_ranks": 3, "ranks_per_node": 1})
    assert sorted(ranks_of(value(mpi, several)).values()) == [[0, 1], [2, 3]]
    assert list(ranks_of(value(mpi, all_nodes))) == ["n1", "n2", "n3"]


def surroundings() -> dict[str, str]:
    import os

    return {**os.environ, "PWD": os.getcwd()}


def test_functions_in_python_find_their_nodes_and_the_launcher(mpi: Harness):
    spec = {"num_nodes": 2, "num_ranks": 4, "launcher_options": "--label"}
    found = value(mpi, task := submit(mpi, surroundings, spec=spec))
    nodes = found["PARSL_MPI_NODELIST"]
    assert len(set(nodes.split(","))) == 2
    prefix = f"srun --ntasks 4 --ntasks-per-node 2 --nodelist {nodes} --nodes 2 --label"
    assert found["PARSL_MPI_PREFIX"] == found["PARSL_SRUN_PREFIX"] == prefix
    assert found["PARSL_MPIEXEC_PREFIX"] == f"mpiexec -n 4 -ppn 2 -hosts {nodes} --label"
    assert found["PARSL_RANKS_PER_NODE"] == "2"
    assert found["PWD"].endswith(f"/tasks_working_dir/{task}")


def hold(directory: str, name: str, until: str) -> tuple[float, list[str], float]:
    """Return when this began, on which nodes, and when it ended: once a file was there."""
    import os
    import time

    begun = time.time()
    with open(f"{directory}/{name}", "w"):
        pass
    while not os.path.exists(f"{directory}/{until}") and time.time() < begun + 30:
        time.sleep(0.02)
    return begun, os.environ["PARSL_MPI_NODELIST"].split(","), time.time()


def test_tasks_wait_for_nodes_in_the_order_in_which_they_came(mpi: Harness, tmp_path: Path):
    def ask(nodes: int, name: str, until: str) -> str:
        return submit(mpi, hold, str(tmp_path), name, until, spec={"num_nodes": nodes})

    names = [(1, "a", "b"), (1, "b", "go"), (3, "c", "c"), (1, "d", "e"), (2, "e", "d")]
    a, b, *others = (ask(*each) for each in names)
    began_a, nodes_a, ended_a = value(mpi, a)
    assert not (tmp_path / "c").exists()  # there are two nodes for it, of three
    (tmp_path / "go").touch()
    began_b, nodes_b, ended_b = value(mpi, b)
    assert max(began_a, began_b) < min(ended_a, ended_b)
    assert nodes_a != nodes_b
    c, d, e = (value(mpi, each) for each in others)
    assert c[0] >= ended_b
    assert sorted(c[1]) == ["n1", "n2", "n3"]
    assert min(d[0], e[0]) >= c[2]  # though there was a node for the first while the other waited
    assert sorted(d[1] + e[1]) == ["n1", "n2", "n3"]
    assert max(d[2], e[2]) - c[2] < 20  # they have met


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"num_nodes": 4}, "num_nodes is 4, but a block of this endpoint has 3 nodes"),
        ({}, "needs to know their size"),
        ({"num_nodes": "2"}, "num_nodes must be an integer from 1, not '2'"),
        ({"nodes": 2}, "there is no 'nodes'"),
        ({"num_nodes": 2, "num_ranks": 3}, "does not divide"),
        ({"num_nodes": 1, "launcher_options": "a\0b"}, "launcher_options must be one line"),
    ],
)
def test_sizes_are_refused_before_parsl_stumbles(mpi: Harness, spec: Any, told: str):
    begun = time.monotonic()
    code, text = error_of(mpi, submit(mpi, surroundings, spec=spec))
    assert code == "ResourceSpecificationError"
    assert told in text
    assert time.monotonic() - begun < 10


def test_a_rank_which_fails(mpi: Harness):
    command = "sh -c 'test $SLURM_PROCID = 0 || echo rank $SLURM_PROCID >&2; exit $SLURM_PROCID'"
    task = submit(mpi, MPIFunction(command), spec={"num_nodes": 2, "num_ranks": 4})
    result = value(mpi, task)
    assert result.returncode == 3
    assert "rank 3\n" in result.stderr
    assert "task 3: Exited with exit code 3" in result.stderr
    assert result.exception_name == "subprocess.CalledProcessError"
    assert result.cmd == f"$PARSL_MPI_PREFIX {command}"


def test_a_walltime_ends_the_ranks_on_all_nodes(mpi: Harness, tmp_path: Path):
    command = f"sh -c 'touch {tmp_path}/$SLURM_PROCID; exec sleep 300'"
    endless = MPIFunction(command, walltime=3, return_dict=True)
    task = submit(mpi, endless, spec={"num_nodes": 3})
    after = submit(mpi, RANKS, spec={"num_nodes": 3})
    result = value(mpi, task)
    assert (result["returncode"], result["exception_name"]) == (124, "subprocess.TimeoutExpired")
    assert len(list(tmp_path.iterdir())) == 3
    following = value(mpi, after)
    assert len(ranks_of(following)) == 3
    assert "busy" not in following.stderr
    mpi.wait_for(lambda: not steps(), 10)


def start_ranks_and_die(directory: str) -> None:
    import os
    import signal
    import subprocess
    import time

    command = f"$PARSL_MPI_PREFIX sh -c 'touch {directory}/$SLURM_PROCID; exec sleep 300'"
    subprocess.Popen(f"{command} & wait", shell=True)
    while len(os.listdir(directory)) < 3:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_worker_leaves_is_ended_before_its_nodes_have_another_task(
    mpi: Harness, tmp_path: Path
):
    task = submit(mpi, start_ranks_and_die, str(tmp_path), spec={"num_nodes": 3})
    after = submit(mpi, RANKS, spec={"num_nodes": 3})
    code, text = error_of(mpi, task)
    assert code == "WorkerLost"
    assert "worker process died while it ran the task" in text
    following = value(mpi, after)
    assert len(ranks_of(following)) == 3
    assert "busy" not in following.stderr
    mpi.wait_for(lambda: not steps(), 10)
    assert len(slurm.jobs()) == 1  # still the first block


def nodes_and_job(path: str, seconds: float) -> tuple[str, str]:
    import os
    import time

    job = os.environ["SLURM_JOB_ID"]
    with open(path, "a") as file:
        file.write(f"{job}\n")
    time.sleep(seconds)
    return os.environ["PARSL_MPI_NODELIST"], job


@pytest.mark.long
def test_blocks_follow_the_work_and_one_which_is_cancelled_costs_an_attempt(
    harness: Harness, cluster: None, tmp_path: Path
):
    scaled = ENGINE.replace("nodes_per_block: 3", "nodes_per_block: 2")
    scaled = scaled.replace("max_blocks: 1", "max_blocks: 2").replace(
        "init_blocks: 1", "init_blocks: 0"
    )
    harness.start(f"{scaled}  max_retries_on_system_failure: 1\n")
    begun = tmp_path / "begun"
    tasks = [
        submit(harness, nodes_and_job, str(begun), 12, spec={"num_nodes": 1}) for _ in range(4)
    ]
    harness.wait_for(lambda: begun.exists() and len(begun.read_text().split()) == 4, 40)
    jobs = begun.read_text().split()
    assert {jobs.count(each) for each in jobs} == {2}  # two blocks, and two tasks in each
    cancelled, other = dict.fromkeys(jobs)
    subprocess.run(["scancel", cancelled], check=True, timeout=20)
    harness.wait_for(lambda: all(each in harness.results for each in tasks), 90)
    found = [value(harness, each) for each in tasks]
    assert cancelled not in {job for _, job in found}
    assert sum(job == other for _, job in found) >= 2
    assert len(begun.read_text().split()) == 6
    assert max(map(len, (nodes.split(",") for nodes, _ in found))) == 1
