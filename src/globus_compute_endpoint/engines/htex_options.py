# SPDX-License-Identifier: Apache-2.0
"""From options in YAML to Parsl's objects, checked against what Parsl takes."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import parsl.addresses
import parsl.executors.high_throughput.manager_selector as selectors
import parsl.launchers
import parsl.providers
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from typeguard import TypeCheckError

from globus_compute_endpoint.config.engines import GlobusComputeEngineConfig
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["PromptLocalProvider", "executor_factory"]

_LOOPBACK = "127.0.0.1"
# What a dead block on this very machine should cost, instead of the two minutes which suit a
# cluster's network. In seconds.
_LOCAL_HEARTBEATS = {"heartbeat_period": 5, "heartbeat_threshold": 30}
# Parsl's interchange outlives whoever has started it. Blocks end by themselves without one.
_INTERCHANGE = """
import os, runpy, select, sys, threading
parent = os.pidfd_open(os.getppid())
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
threading.Thread(
    target=lambda: (select.select([parent], [], []), os._exit(1)), daemon=True
).start()
runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
"""
# Options of HTEX which would take the worker's life out of our hands.
_OURS = frozenset({"self", "block_error_handler", "storage_access", "remote_monitoring_radio"})

_ADDRESSES = ("address_by_hostname", "address_by_interface", "address_by_query", "address_by_route")


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
        Problem: Parsl does not take an option (CONFIGURATION).
    """

    def make() -> Any:
        options: dict[str, Any] = dict(config.model_extra or {})
        provider = _provider(config.provider)
        if isinstance(provider, LocalProvider):
            options = {"address": _LOOPBACK, **_LOCAL_HEARTBEATS, **options}
        options["provider"] = provider
        options["label"] = config.label or "GlobusComputeEngine"
        watched = [sys.executable, "-c", _INTERCHANGE, str(os.getpid())]
        options.setdefault("interchange_launch_cmd", watched)
        if isinstance(options.get("address"), Mapping):
            options["address"] = _address(options["address"])
        if isinstance(options.get("manager_selector"), Mapping):
            options["manager_selector"] = _typed(
                options["manager_selector"], selectors, "engine.manager_selector", "Selector"
            )
        for name in ("worker_port_range", "interchange_port_range"):
            if isinstance(options.get(name), list):
                options[name] = tuple(options[name])
        # Ours sees blocks fail, too: Parsl's gives up for good after a single one.
        executor = _call(HighThroughputExecutor, options | _no_handler(options), "engine")
        executor._check_python_mismatch = False  # what we send is source, for any Python
        return executor

    make()
    return make


def _no_handler(options: Mapping[str, Any]) -> dict[str, Any]:
    if clash := sorted(_OURS & options.keys()):
        raise _wrong(f"engine.{clash[0]}", "cannot be set here")
    return {"block_error_handler": False}


def _provider(options: Mapping[str, Any]) -> Any:
    options = {"type": "LocalProvider", **options}
    if isinstance(options.get("launcher"), Mapping):
        options["launcher"] = _typed(
            options["launcher"], parsl.launchers, "engine.provider.launcher", "Launcher"
        )
    provider = _typed(options, parsl.providers, "engine.provider", "Provider")
    if type(provider) is LocalProvider:
        rest = {key: value for key, value in options.items() if key != "type"}
        return PromptLocalProvider(**rest)
    return provider


def _address(options: Mapping[str, Any]) -> str:
    rest = dict(options)
    kind = rest.pop("type", None)
    if kind not in _ADDRESSES:
        raise _wrong("engine.address.type", f"must be one of {', '.join(_ADDRESSES)}")
    return str(_call(getattr(parsl.addresses, kind), rest, "engine.address"))


def _typed(options: Mapping[str, Any], module: ModuleType, path: str, suffix: str) -> Any:
    """Make the object which ``type`` names; only what the module offers can be named."""
    rest = dict(options)
    kind = rest.pop("type", None)
    known = [name for name in dir(module) if name.endswith(suffix) and not name.startswith("_")]
    if kind not in known:
        raise _wrong(f"{path}.type", f"there is no {kind!r}; known are {', '.join(known)}")
    return _call(getattr(module, str(kind)), rest, path)


def _call(function: Callable[..., Any], options: Mapping[str, Any], path: str) -> Any:
    parameters = inspect.signature(function).parameters
    for name in options:
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise _wrong(f"{path}.{name}", f"no such option{guess}")
    try:
        return function(**options)
    except (TypeError, ValueError, TypeCheckError, AssertionError, OSError) as error:
        raise _wrong(path, f"Parsl does not take it: {error}") from error
    except Exception as error:  # each provider has exceptions of its own
        raise _wrong(path, f"{type(error).__name__}: {error}") from error


def _wrong(path: str, what: str) -> Problem:
    return Problem("ENGINE_OPTION", f"{path}: {what}", "correct it", ExitStatus.CONFIGURATION)
