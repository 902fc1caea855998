# SPDX-License-Identifier: Apache-2.0
"""What GlobusMPIEngine's options make of Parsl's MPIExecutor and its provider."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import parsl.providers
from parsl.executors import MPIExecutor
from parsl.launchers import SimpleLauncher

from globus_compute_endpoint.config.containers import ContainerOptions
from globus_compute_endpoint.config.engines import GlobusMPIEngineConfig
from globus_compute_endpoint.config.loading import KeyPath, WrongOption
from globus_compute_endpoint.engines.providers import provider_of

__all__ = ["REFUSED_BY_MPI", "MPIBlocksExecutor", "mpi_options", "mpi_provider_of"]

_PROVIDER: KeyPath = ("engine", "provider")
_ONE_POOL = "one pool of workers serves a whole block: see max_workers_per_block"
_PLACED = "the MPI launcher places the ranks: give it launcher_options in resource_specification"
_OUTSIDE = (
    "the workers start the scheduler's launcher, which is not in a container: have each rank start"
    " its own, as with MPIFunction('apptainer exec IMAGE PROGRAM')"
)
#: The options of GlobusComputeEngine which this one does not take, and why.
REFUSED_BY_MPI = dict.fromkeys(ContainerOptions.model_fields, _OUTSIDE) | {
    "max_workers_per_node": _ONE_POOL,
    "cores_per_worker": _ONE_POOL,
    "mem_per_worker": _ONE_POOL,
    "cpu_affinity": _PLACED,
    "available_accelerators": _PLACED,
    "manager_selector": "Parsl's MPIExecutor has none",
}
_LAUNCHER = "SimpleLauncher"
# Parsl reads a block's nodes in these, and nowhere else.
_NODE_LISTS = ("SLURM_NODELIST", "PBS_NODEFILE")
_KNOW_THEIR_NODES = ("SlurmProvider", "PBSProProvider", "TorqueProvider")


class MPIBlocksExecutor(MPIExecutor):
    """MPIExecutor, whose blocks are counted as what they are: one pool, and not one a node."""

    @property
    def workers_per_node(self) -> Any:
        assert self.provider is not None
        return Fraction(self.max_workers_per_block, self.provider.nodes_per_block)


class _FirstNodeLauncher(SimpleLauncher):
    """SimpleLauncher, which would warn that only one node has workers: here that is meant."""

    def __call__(self, command: str, *_rest: Any, **_more: Any) -> str:
        return command


def mpi_options(config: GlobusMPIEngineConfig, nodes_per_block: int) -> dict[str, Any]:
    """Return the options which MPIExecutor alone takes."""
    return {
        "mpi_launcher": config.mpi_launcher,
        # Each needs a node: what another took would wait in this block, and could not elsewhere.
        "max_workers_per_block": min(config.max_workers_per_block, nodes_per_block),
    }


def mpi_provider_of(options: Mapping[str, Any]) -> Any:
    """Return the provider which ``options`` describe, with the one launcher that MPI can have.

    Raises:
        WrongOption: as :func:`provider_of`; or another launcher is given, or the blocks would not
            know their nodes.
    """
    _check_node_list(options)
    launcher = options.get("launcher") or {"type": _LAUNCHER}
    if not (isinstance(launcher, Mapping) and launcher.get("type") == _LAUNCHER):
        raise WrongOption(
            (*_PROVIDER, "launcher"),
            f"GlobusMPIEngine needs {{type: {_LAUNCHER}}}, and has it where nothing is given: the"
            " workers run on the first node of a block, and their tasks start the MPI launcher",
        )
    provider = provider_of({**options, "launcher": launcher})
    provider.launcher = _FirstNodeLauncher(debug=provider.launcher.debug)
    return provider


def _check_node_list(provider: Mapping[str, Any]) -> None:
    kind = provider.get("type", "LocalProvider")
    worker_init = str(provider.get("worker_init"))
    if kind in _KNOW_THEIR_NODES or any(name in worker_init for name in _NODE_LISTS):
        return
    if kind not in dir(parsl.providers):
        return  # and so is refused for that
    if kind == "LocalProvider" and any(name in os.environ for name in _NODE_LISTS):
        return  # the endpoint itself runs in a batch job
    raise WrongOption(
        (*_PROVIDER, "type"),
        f"GlobusMPIEngine cannot learn which nodes a block of {kind} has: use one of"
        f" {', '.join(_KNOW_THEIR_NODES)}, or export PBS_NODEFILE, a file with a node a line, in"
        " worker_init",
    )
