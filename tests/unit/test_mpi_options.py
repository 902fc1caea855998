# SPDX-License-Identifier: Apache-2.0
"""``engine: {type: GlobusMPIEngine}``, checked down to what Parsl's MPIExecutor takes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from parsl.executors import HighThroughputExecutor, MPIExecutor

from globus_compute_endpoint.engines.htex_options import REFUSED, executor_factory
from globus_compute_endpoint.engines.mpi import GlobusMPIEngine
from globus_compute_endpoint.engines.mpi_options import REFUSED_BY_MPI
from unit.test_engine_configuration import OURS, PASSED, check, refused

SLURM = {"type": "SlurmProvider", "nodes_per_block": 7, "max_blocks": 2}


def engine(**options: Any) -> dict[str, Any]:
    return {"engine": {"type": "GlobusMPIEngine", "provider": SLURM} | options}


def executor(**options: Any) -> Any:
    config: Any = check(str(engine(**options))).engine
    return executor_factory(config)()


def test_defaults_are_parsls_but_for_encryption():
    made = executor()
    assert isinstance(made, MPIExecutor)
    assert (made.mpi_launcher, made.max_workers_per_block) == ("mpiexec", 1)
    assert made.encrypted is True
    assert made.enable_mpi_mode


@pytest.mark.parametrize("option", inspect.signature(HighThroughputExecutor).parameters)
def test_each_option_of_htex_is_passed_set_by_us_or_refused_with_a_reason(option: str):
    taken = inspect.signature(MPIExecutor).parameters
    assert (option in REFUSED_BY_MPI) == (option not in taken), "new in Parsl?"
    if option in REFUSED | REFUSED_BY_MPI:
        message = refused(f"engine:\n  type: GlobusMPIEngine\n  {option}: null\n")
        assert f"config.yaml: engine.{option} (line 3): cannot be set here: " in message
    elif option in PASSED and option != "interchange_launch_cmd":
        given, wanted = PASSED[option]
        assert getattr(executor(**{option: given}), option) == wanted
    else:
        assert option in (*OURS, "interchange_launch_cmd")


@pytest.mark.parametrize("launcher", ["srun", "aprun", "mpiexec"])
def test_launchers(launcher: str):
    assert executor(mpi_launcher=launcher).mpi_launcher == launcher


def test_workers_are_a_blocks():
    made = executor(max_workers_per_block=3)
    assert made.max_workers_per_node == 3  # of the one pool
    assert made.workers_per_node * 7 == 3  # exactly: Parsl rounds up
    config: Any = check(str(engine(max_workers_per_block=3))).engine
    assert GlobusMPIEngine(config).slots == 6
    assert executor(max_workers_per_block=8).max_workers_per_block == 7  # a node for each


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mpi_launcher: mpirun", "engine.mpi_launcher (line 3): Input should be 'srun', 'aprun'"),
        ("max_workers_per_block: 0", "engine.max_workers_per_block (line 3): "),
        ("max_workers_per_blok: 1", "engine.max_workers_per_blok (line 3): no such option (did y"),
        (
            "container_type: podman",
            "engine.container_type (line 3): cannot be set here: the worker",
        ),
        ("container_uri: x", "engine.container_uri (line 3): cannot be set here: the workers"),
        ("mpi_lancher: srun", "engine.mpi_lancher (line 3): no such option (did you mean mpi_l"),
        (
            "provider: {type: SlurmProvider, launcher: {type: SrunLauncher}}",
            "engine.provider.launcher (line 3): GlobusMPIEngine needs {type: SimpleLauncher}, and",
        ),
        (
            "provider: {type: SlurmProvider, launcher: {type: SimpleLauncher, x: 1}}",
            "engine.provider.launcher.x (line 3): no such option",
        ),
        ("provider: {type: SlurmProvidr}", "engine.provider.type (line 3): there is no 'SlurmP"),
        ("provider: {max_blocks: 1}", "cannot learn which nodes a block of LocalProvider has: use"),
        ("provider: {type: LSFProvider}", "cannot learn which nodes a block of LSFProvider has"),
        ("", "engine.provider.type (line 1): GlobusMPIEngine cannot learn which nodes"),
    ],
)
def test_a_wrong_option_is_told_with_file_key_and_line(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SLURM_NODELIST", raising=False)
    if "provider" not in text and text:
        text += "\n  provider: {type: SlurmProvider}"
    message = refused(f"engine:\n  type: GlobusMPIEngine\n  {text}\n")
    assert message.startswith("config.yaml: ")
    assert told in message


def test_a_name_nearly_right_is_guessed():
    told = refused("engine: {type: GlobusMPIEngin}\n")
    assert "there is no GlobusMPIEngin (did you mean GlobusMPIEngine?); known are " in told


def test_blocks_of_other_providers_may_be_told_their_nodes(monkeypatch: pytest.MonkeyPatch):
    hosts = {"worker_init": "export PBS_NODEFILE=$HOME/hosts", "nodes_per_block": 1}
    assert executor(provider=hosts).address == "127.0.0.1"
    monkeypatch.setenv("SLURM_NODELIST", "n[1-4]")  # started in a batch job
    assert executor(provider={"type": "LocalProvider", "nodes_per_block": 4}).encrypted
