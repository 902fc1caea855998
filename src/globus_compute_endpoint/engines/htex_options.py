# SPDX-License-Identifier: Apache-2.0
"""From options in YAML to Parsl's objects, checked against what Parsl takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import parsl.addresses
import parsl.executors.high_throughput.manager_selector as selectors
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.providers import LocalProvider

from globus_compute_endpoint.config.engines import BlocksEngineConfig, GlobusMPIEngineConfig
from globus_compute_endpoint.config.loading import KeyPath, WrongOption
from globus_compute_endpoint.engines import interchange
from globus_compute_endpoint.engines.batch_jobs import correct_cancelling
from globus_compute_endpoint.engines.executor_options import (
    check_executor_options,
    check_heartbeats,
    check_room,
)
from globus_compute_endpoint.engines.mpi_options import (
    REFUSED_BY_MPI,
    MPIBlocksExecutor,
    mpi_options,
    mpi_provider_of,
)
from globus_compute_endpoint.engines.parsl_objects import call, known, typed
from globus_compute_endpoint.engines.providers import provider_of
from globus_compute_endpoint.worker.shipping import pool_command

__all__ = ["REFUSED", "executor_factory"]

_LOOPBACK = "127.0.0.1"
# What a dead block on this very machine should cost, instead of the two minutes which suit a
# cluster's network. In seconds.
_LOCAL_HEARTBEATS = {"heartbeat_period": 5, "heartbeat_threshold": 30}
_POOL = DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", pool_command())
#: The options of HTEX which cannot be set, and why.
REFUSED = {
    "block_error_handler": "the engine itself replaces blocks which fail, and tells why they did",
    "storage_access": "the functions of Globus Compute have no files which Parsl could stage",
    "remote_monitoring_radio": "Parsl's monitoring has no part in an endpoint",
}
_ADDRESSES = (
    "address_by_hostname",
    "address_by_interface",
    "address_by_query",
    "address_by_route",
    "get_any_address",
)
_ENGINE: KeyPath = ("engine",)


def executor_factory(config: BlocksEngineConfig) -> Callable[[], Any]:
    """Return a function which makes an executor, each time anew; it has worked once.

    Raises:
        WrongOption: Parsl does not take an option.
    """
    given = dict(config.model_extra or {})
    is_mpi = isinstance(config, GlobusMPIEngineConfig)
    for name, reason in (REFUSED | REFUSED_BY_MPI if is_mpi else REFUSED).items():
        if name in given:
            raise WrongOption((*_ENGINE, name), f"cannot be set here: {reason}")
    for name in ("worker_port_range", "interchange_port_range"):
        if isinstance(given.get(name), list):
            given[name] = tuple(given[name])
    check_executor_options({**given, "label": config.label})
    if isinstance(given.get("address"), Mapping):
        given["address"] = _address(given["address"])  # once: it may ask the network

    def make() -> Any:
        options = dict(given)
        provider = (mpi_provider_of if is_mpi else provider_of)(config.provider)
        correct_cancelling(provider)
        if isinstance(provider, LocalProvider):
            options = {"address": _LOOPBACK, **_LOCAL_HEARTBEATS, **options}
        options["provider"] = provider
        options["label"] = config.label or config.type
        options.setdefault("encrypted", True)  # as it is not by default with MPI
        options.setdefault("launch_cmd", _POOL)
        if isinstance(options.get("manager_selector"), Mapping):
            options["manager_selector"] = typed(
                options["manager_selector"], selectors, (*_ENGINE, "manager_selector"), "Selector"
            )
        # Ours sees blocks fail, too: Parsl's gives up for good after a single one.
        options["block_error_handler"] = False
        if isinstance(config, GlobusMPIEngineConfig):
            options |= mpi_options(config, provider.nodes_per_block)
            executor = call(MPIBlocksExecutor, options, _ENGINE)
        else:
            executor = call(HighThroughputExecutor, options, _ENGINE)
            check_room(executor)
        check_heartbeats(executor)
        if "interchange_launch_cmd" not in options:  # MPIExecutor would not take words
            executor.interchange_launch_cmd = interchange.command()
        executor._check_python_mismatch = False  # what we send is source, for any Python
        return executor

    make()
    return make


def _address(options: Mapping[str, Any]) -> str:
    path = (*_ENGINE, "address")
    rest = dict(options)
    kind = known(rest.pop("type", None), _ADDRESSES, path)
    return str(call(getattr(parsl.addresses, kind), rest, path))
