# SPDX-License-Identifier: Apache-2.0
"""GlobusMPIEngine on a real Slurm: MPI tasks which share a block, each on nodes of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from globus_compute_sdk import MPIFunction

from endpoint.harness import Harness
from endpoint.test_user_endpoint import value

pytestmark = [pytest.mark.timeout(150), pytest.mark.usefixtures("cluster")]

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


def sized(**specification: Any) -> dict[str, Any]:
    return {"headers": {"resource_specification": json.dumps(specification)}}


@pytest.fixture(scope="module")
def mpi(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = Harness(tmp_path_factory.mktemp("mpi"))
    harness.start(ENGINE)
    yield harness
    harness.close()


RANKS = MPIFunction("sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME'")


def test_ranks_are_spread_over_nodes(mpi: Harness):
    task = mpi.submit(RANKS, **sized(num_nodes=2, ranks_per_node=2))
    result = value(mpi, task)
    assert result.returncode == 0
    assert sorted(each.split()[0] for each in result.stdout.splitlines()) == ["0", "1", "2", "3"]
