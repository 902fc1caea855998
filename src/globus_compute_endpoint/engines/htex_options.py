# SPDX-License-Identifier: Apache-2.0
"""From options in YAML to Parsl's objects, checked against what Parsl takes."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import parsl.addresses
import parsl.executors.high_throughput.manager_selector as selectors
import parsl.launchers
import parsl.providers
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.providers import LocalProvider
from typeguard import TypeCheckError

from globus_compute_endpoint.config.engines import GlobusComputeEngineConfig
from globus_compute_endpoint.config.loading import KeyPath, WrongOption, did_you_mean
from globus_compute_endpoint.engines.batch_jobs import correct_cancelling
from globus_compute_endpoint.worker.shipping import pool_command

__all__ = ["REFUSED", "PromptLocalProvider", "executor_factory"]

_LOOPBACK = "127.0.0.1"
# What a dead block on this very machine should cost, instead of the two minutes which suit a
# cluster's network. In seconds.
_LOCAL_HEARTBEATS = {"heartbeat_period": 5, "heartbeat_threshold": 30}
# Parsl's interchange outlives whoever has started it. Blocks end by themselves without one.
# Ctrl-C in a terminal goes to the whole process group there: it is the endpoint's to end this one.
_INTERCHANGE = """
import os, runpy, select, sys, threading
os.setpgid(0, 0)
parent = os.pidfd_open(os.getppid())
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
threading.Thread(
    target=lambda: (select.select([parent], [], []), os._exit(1)), daemon=True
).start()
runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
"""
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
# typeguard's text, where an argument has the wrong type.
_ARGUMENT = re.compile(r'^argument "(\w+)"')


class PromptLocalProvider(LocalProvider):
    """LocalProvider, but a block which has died is seen within a second.

    ``groups`` are the process groups of its blocks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]  # Parsl leaves it untyped
        self.groups: set[int] = set()

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> Any:
        job_id = super().submit(command, tasks_per_node, job_name)  # type: ignore[no-untyped-call]  # as above
        with contextlib.suppress(ProcessLookupError):
            self.groups.add(os.getpgid(int(job_id)))
        return job_id

    @property
    def status_polling_interval(self) -> int:
        return 1


def executor_factory(config: GlobusComputeEngineConfig) -> Callable[[], Any]:
    """Return a function which makes an executor, each time anew; it has worked once.

    Raises:
        WrongOption: Parsl does not take an option.
    """
    given = dict(config.model_extra or {})
    for name, reason in REFUSED.items():
        if name in given:
            raise WrongOption((*_ENGINE, name), f"cannot be set here: {reason}")
    if isinstance(given.get("address"), Mapping):
        given["address"] = _address(given["address"])  # once: it may ask the network
    for name in ("worker_port_range", "interchange_port_range"):
        if isinstance(given.get(name), list):
            given[name] = tuple(given[name])

    def make() -> Any:
        options = dict(given)
        provider = _provider(config.provider)
        correct_cancelling(provider)
        if isinstance(provider, LocalProvider):
            options = {"address": _LOOPBACK, **_LOCAL_HEARTBEATS, **options}
        options["provider"] = provider
        options["label"] = config.label or "GlobusComputeEngine"
        watched = [sys.executable, "-c", _INTERCHANGE, str(os.getpid())]
        options.setdefault("interchange_launch_cmd", watched)
        options.setdefault("launch_cmd", _POOL)
        if isinstance(options.get("manager_selector"), Mapping):
            options["manager_selector"] = _typed(
                options["manager_selector"], selectors, (*_ENGINE, "manager_selector"), "Selector"
            )
        # Ours sees blocks fail, too: Parsl's gives up for good after a single one.
        options["block_error_handler"] = False
        executor = _call(HighThroughputExecutor, options, _ENGINE)
        executor._check_python_mismatch = False  # what we send is source, for any Python
        return executor

    make()
    return make


def _provider(options: Mapping[str, Any]) -> Any:
    path = (*_ENGINE, "provider")
    options = {"type": "LocalProvider", **options}
    if options.get("worker_init") is None:  # a template's way of leaving it out
        options.pop("worker_init", None)
    if isinstance(options.get("launcher"), Mapping):
        options["launcher"] = _typed(
            options["launcher"], parsl.launchers, (*path, "launcher"), "Launcher"
        )
    provider = _typed(options, parsl.providers, path, "Provider")
    _check_what_parsl_does_not(provider, path)
    if type(provider) is LocalProvider:
        rest = {key: value for key, value in options.items() if key != "type"}
        return PromptLocalProvider(**rest)
    return provider


def _check_what_parsl_does_not(provider: Any, path: KeyPath) -> None:
    """Refuse what Parsl would stumble over later, or never run a task with."""
    if not isinstance(provider.worker_init, str):
        raise WrongOption((*path, "worker_init"), "must be text")
    if not isinstance(provider.parallelism, int | float) or not 0 < provider.parallelism <= 1:
        raise WrongOption((*path, "parallelism"), "must be a number above 0, up to 1")
    for name in ("nodes_per_block", "init_blocks", "min_blocks", "max_blocks"):
        least = 1 if name in ("nodes_per_block", "max_blocks") else 0
        value = getattr(provider, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise WrongOption((*path, name), f"must be an integer from {least}, not {value!r}")
    for name in ("init_blocks", "min_blocks"):
        if getattr(provider, name) > provider.max_blocks:
            raise WrongOption((*path, name), f"is above max_blocks ({provider.max_blocks})")


def _address(options: Mapping[str, Any]) -> str:
    path = (*_ENGINE, "address")
    rest = dict(options)
    kind = _known(rest.pop("type", None), _ADDRESSES, path)
    return str(_call(getattr(parsl.addresses, kind), rest, path))


def _typed(options: Mapping[str, Any], module: ModuleType, path: KeyPath, suffix: str) -> Any:
    """Make the object which ``type`` names; only what the module offers can be named."""
    rest = dict(options)
    known = [name for name in dir(module) if name.endswith(suffix) and not name.startswith("_")]
    return _call(getattr(module, _known(rest.pop("type", None), known, path)), rest, path)


def _known(kind: object, known: Sequence[str], path: KeyPath) -> str:
    if isinstance(kind, str) and kind in known:
        return kind
    told = f"there is no {kind!r}{did_you_mean(kind, known)}" if kind else "it is missing"
    raise WrongOption((*path, "type"), f"{told}; known are {', '.join(known)}")


def _call(function: Callable[..., Any], options: Mapping[str, Any], path: KeyPath) -> Any:
    parameters = inspect.signature(function).parameters
    for name in options:
        if name not in parameters:
            guess = did_you_mean(name, parameters)
            raise WrongOption((*path, name), f"no such option{guess}")
    try:
        return function(**options)
    except (TypeError, ValueError, TypeCheckError, AssertionError, OSError) as error:
        if named := _ARGUMENT.match(str(error)):
            path = (*path, named[1])
        raise WrongOption(path, f"Parsl does not take it: {error}") from error
    except Exception as error:  # each provider has exceptions of its own
        raise WrongOption(path, f"{type(error).__name__}: {error}") from error
