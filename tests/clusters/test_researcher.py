# SPDX-License-Identifier: Apache-2.0
"""A researcher with the stock SDK, whose endpoints run on a real Slurm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from endpoint.personal import Person, create_client, running_services
from support import slurm

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("cluster")]

ENGINES = {
    "mpi": """\
  type: GlobusMPIEngine
  mpi_launcher: srun
  max_workers_per_block: 2
  provider: {type: SlurmProvider, nodes_per_block: 2}
""",
    "shell": """\
  type: GlobusComputeEngine
  max_workers_per_node: 1
  run_in_sandbox: true
  provider: {type: SlurmProvider}
""",
}
_COMMON = """\
engine:
  address: 127.0.0.1
  job_status_kwargs: {strategy_period: 1}
"""
_RESEARCHER = """
import json, sys
from globus_compute_sdk import Executor, MPIFunction, ShellFunction

mpi_endpoint, shell_endpoint = sys.argv[1].split(",")
ranks = MPIFunction("sh -c 'echo {word} $SLURM_PROCID $SLURMD_NODENAME'")

def where(node):
    import os
    return os.environ["PARSL_MPI_NODELIST"].split(",")[node]

def error_of(future):
    try:
        future.result(60)
    except Exception as error:
        return [type(error).__name__, str(error)]

told = {}
with Executor(endpoint_id=mpi_endpoint) as mpi, Executor(endpoint_id=shell_endpoint) as shell:
    mpi.resource_specification = {"num_nodes": 2, "ranks_per_node": 2}
    both = mpi.submit(ranks, word="rank")
    mpi.resource_specification = {"num_nodes": 1}
    one = mpi.submit(where, 0)
    mpi.resource_specification = {"num_nodes": 3}
    too_many = mpi.submit(ranks, word="never")
    lines = shell.submit(ShellFunction("echo $SLURM_JOB_ID; pwd; exit 3", stdout="out"))
    slow = shell.submit(ShellFunction("echo begun; sleep 600", walltime=1))
    told["both"] = sorted(both.result(60).stdout.splitlines())
    told["one"] = one.result(60)
    told["error"] = error_of(too_many)
    told["lines"] = lines.result(60).stdout.splitlines() + [lines.result().returncode]
    told["slow"] = [slow.result(60).returncode, slow.result().stdout]
    told["tasks"] = [lines.task_id]
print(json.dumps(told))
"""


def test_mpi_and_shell_functions_with_the_sdk(tmp_path: Path):
    with running_services():
        person = Person(tmp_path, create_client("alice", "a@example.org"))
        try:
            ids = []
            for name, engine in ENGINES.items():
                person.configure(name, f"{_COMMON}{engine}")
                ids.append(person.start(name)[1])
            told = person.research(_RESEARCHER, ",".join(ids))
            seen = [json.loads(person.told("status", name, "--json")) for name in ENGINES]
            shown = person.told("status", "mpi")
            queue = slurm.jobs("%i")
        finally:
            person.stop_all()
    words = [line.split() for line in told["both"]]
    assert [rank for _, rank, _ in words] == ["0", "1", "2", "3"]
    nodes = [node for _, _, node in words]
    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    assert told["one"] in nodes
    kind, text = told["error"]
    assert kind == "TaskExecutionFailed"
    assert "num_nodes is 3, but a block of this endpoint has 2 nodes" in text
    job, directory, status = told["lines"]
    assert job.isdecimal()
    assert directory.endswith(f"/shell/tasks_working_dir/{told['tasks'][0]}")
    assert (Path(directory) / "out").read_text() == f"{job}\n{directory}\n"
    assert status == 3
    assert told["slow"] == [124, "begun\n"]
    (mpi,), (shell,) = (each["user_endpoints"] for each in seen)
    assert (mpi["done_tasks"], shell["done_tasks"]) == (3, 2)
    engines = [mpi["engine"], shell["engine"]]
    assert [each["engine_type"] for each in engines] == ["GlobusMPIEngine", "GlobusComputeEngine"]
    jobs = [job for engine in engines for job in engine["jobs"]]
    assert sorted(job["job_id"] for job in jobs) == sorted(queue)
    assert {job["state"] for job in jobs} == {"RUNNING"}
    assert f"| {jobs[0]['job_id']} " in shown
