# SPDX-License-Identifier: Apache-2.0
"""GlobusMPIEngine: tasks which each have some of a block's nodes, and start MPI ranks on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
from globus_compute_endpoint.engines.resources import for_mpi

__all__ = ["GlobusMPIEngine"]


class GlobusMPIEngine(GlobusComputeEngine):
    """GlobusComputeEngine on Parsl's MPIExecutor: workers are a block's, and nodes a task's."""

    def checked(self, specification: Mapping[str, Any]) -> dict[str, Any]:
        return for_mpi(specification, self.nodes_per_block)
