# SPDX-License-Identifier: Apache-2.0
"""GlobusMPIEngine on this machine, whose blocks are told of nodes which nobody has."""

import os
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import MPIFunction

from engines.conftest import Started
from engines.test_globus_compute import ENGINE

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(90)]

MPIEXEC = '#!/bin/sh\nprintf "%s," "$@"\n'


def engine(nodes: Path) -> dict[str, Any]:
    worker_init = f"export PBS_NODEFILE={nodes}"
    provider = {"type": "LocalProvider", "nodes_per_block": 3, "worker_init": worker_init}
    options = {key: value for key, value in ENGINE.items() if key != "max_workers_per_node"}
    scaling = {"strategy_period": 0.3}
    mpi = {"type": "GlobusMPIEngine", "max_workers_per_block": 3, "provider": provider}
    return options | mpi | {"job_status_kwargs": scaling}


async def test_a_block_which_was_given_fewer_nodes_says_so(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nodes = tmp_path / "nodes"
    nodes.write_text("alpha\nalpha\nbeta\nbeta\n")  # as PBS has them, for two ranks each
    (tmp_path / "bin").mkdir()
    mpiexec = tmp_path / "bin/mpiexec"
    mpiexec.write_text(MPIEXEC)
    mpiexec.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mpiexec.parent}:{os.environ['PATH']}")
    async with started(engine(nodes)) as bench:
        run = MPIFunction("./simulate x")
        code, text = await bench.error(run, resource_specification={"num_nodes": 3})
        assert code == "ResourceSpecificationError"
        wanted = "num_nodes is 3, and the block has but 2 of its nodes: ['alpha', 'beta']"
        assert text == f"resource_specification: {wanted}"
        fits = {"num_nodes": 2, "num_ranks": 8, "launcher_options": "-genvall"}
        result = await bench.value(run, resource_specification=fits)
        assert result.stdout == "-n,8,-ppn,4,-hosts,alpha,beta,-genvall,./simulate,x,"
