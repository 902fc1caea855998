# SPDX-License-Identifier: Apache-2.0
"""What HTEX's options may be, where Parsl would stumble, or wait for ever, once a block runs."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

from globus_compute_endpoint.config.loading import KeyPath, WrongOption, did_you_mean

__all__ = ["check_executor_options", "check_heartbeats", "check_room"]

_ENGINE: KeyPath = ("engine",)
# Integers: Parsl takes 0 of the first for no limit, and true for 1.
_LEAST = {
    "max_workers_per_node": 1,
    "prefetch_capacity": 0,
    "drain_period": 1,
    "heartbeat_period": 1,
    "heartbeat_threshold": 1,
    "poll_period": 1,
}
_ABOVE_0 = ("cores_per_worker", "mem_per_worker")
_PORTS = ("worker_port_range", "interchange_port_range")
# Parsl writes these into the shell command of a block as they are.
_WORD = re.compile(r"[\w.@:+/,%-]+", re.ASCII)
_IN_SHELL = {
    "address": (_WORD, "the name or address of this machine"),
    "label": (re.compile(r"[\w.@:+%-]+", re.ASCII), "a name"),
    "worker_logdir_root": (re.compile(r"[\w.@:+/,%~$-]+", re.ASCII), "a path without spaces"),
}
_AFFINITY = re.compile(r"none|block|alternating|block-reverse|list(:[\d,-]+)+", re.IGNORECASE)
_FIELDS = {
    *(name for _, name, _, _ in string.Formatter().parse(DEFAULT_LAUNCH_CMD) if name),
    "block_id",
    "nodes_per_block",
}


def check_executor_options(options: Mapping[str, Any]) -> None:
    """Check values, but not what Parsl itself checks, such as most types.

    Raises:
        WrongOption: Parsl would accept a value, and a block fail with it, or run no task.
    """
    for name, value in options.items():
        if value is not None and (wrong := _wrong(name, value)):
            raise WrongOption((*_ENGINE, name), f"must be {wrong}, not {value!r}")
    if isinstance(command := options.get("launch_cmd"), str):
        _check_command(command)


def _wrong(name: str, value: Any) -> str | None:
    """Return what a value must be, if it is not."""
    good, must = True, ""
    if name in _LEAST and isinstance(value, int):
        good, must = value is not True and value >= _LEAST[name], f"an integer from {_LEAST[name]}"
    elif name in _ABOVE_0 and isinstance(value, int | float):
        good, must = value is not True and 0 < value < math.inf, "a number above 0"
    elif name in _PORTS and isinstance(value, tuple) and all(type(port) is int for port in value):
        good = len(value) == 2 and 0 < value[0] < value[1] <= 65536
        must = "two ports, the lower first"
    elif name in _IN_SHELL and isinstance(value, str):
        form, must = _IN_SHELL[name]
        good = form.fullmatch(value) is not None
    elif name == "cpu_affinity" and isinstance(value, str):
        good = _AFFINITY.fullmatch(value) is not None
        must = "none, block, alternating, block-reverse or list:CORES:CORES…, for each worker"
    elif name == "available_accelerators":
        must = 'a number, or a list of names like ["0", "1"]'
        good = (type(value) is int and value >= 0) or _are_words(value)
    elif name == "manager_selector":
        good, must = isinstance(value, Mapping), "a mapping with a type"
    return None if good else must


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, str) and _WORD.fullmatch(each) for each in value
    )


def _check_command(command: str) -> None:
    path = (*_ENGINE, "launch_cmd")
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(command) if name is not None]
    except ValueError as error:
        raise WrongOption(path, f"{error}; braces of the command's own are doubled") from error
    for name in fields:
        if name not in _FIELDS:
            guess = did_you_mean(name, _FIELDS)
            raise WrongOption(
                path, f"Parsl has no {{{name}}}{guess}; braces of the command's own are doubled"
            )


def check_heartbeats(executor: HighThroughputExecutor) -> None:
    """Check that whoever is heard of in time is not taken for lost.

    Raises:
        WrongOption: the threshold is not above the period.
    """
    period, threshold = executor.heartbeat_period, executor.heartbeat_threshold
    if threshold <= period:
        raise WrongOption(
            (*_ENGINE, "heartbeat_threshold"),
            f"must be above heartbeat_period, which is {period} s: blocks would be taken for lost",
        )


def check_room(executor: HighThroughputExecutor) -> None:
    """Check that a node of the provider, as far as its sizes are known, has room for a worker.

    Raises:
        WrongOption: there would be none, and tasks would wait for ever.
    """
    for worker, node in (
        ("cores_per_worker", "cores_per_node"),
        ("mem_per_worker", "mem_per_node"),
    ):
        needed, there = getattr(executor, worker), getattr(executor.provider, node, None)
        if needed is not None and there is not None and there < needed:
            raise WrongOption(
                (*_ENGINE, worker), f"is above provider.{node} ({there}): no worker would start"
            )
