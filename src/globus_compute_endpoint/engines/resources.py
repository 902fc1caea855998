# SPDX-License-Identifier: Apache-2.0
"""A task's ``resource_specification``, checked before Parsl has it: some would stop Parsl."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from globus_compute_endpoint.config.loading import did_you_mean

__all__ = ["BadSpecification", "for_htex", "for_mpi"]

_SIZES = ("num_nodes", "ranks_per_node", "num_ranks")
_MPI_KEYS = (*_SIZES, "launcher_options")
_OPTIONS_LIMIT = 4096  # characters: it becomes part of three environment variables
_SIZE_LIMIT = 10**9
_SHOWN = 60


class BadSpecification(ValueError):
    """What is wrong with a specification, and what to change, for the researcher."""

    def __init__(self, text: str) -> None:
        super().__init__(f"resource_specification: {text}")


def for_htex(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check what HighThroughputExecutor takes: ``priority``, lower is sooner.

    Raises:
        BadSpecification: there is something else, or it is no number.
    """
    _check_keys(given, ("priority",))
    priority = given.get("priority", 0)
    # The interchange sorts by it, and would end at a text.
    is_number = isinstance(priority, int | float) and not isinstance(priority, bool)
    # An integer may be too large for a float.
    if not is_number or (isinstance(priority, float) and math.isnan(priority)):
        raise BadSpecification(
            f"priority must be a number, the lower the sooner, not {_show(priority)}."
        )
    return dict(given)


def for_mpi(given: Mapping[str, Any], nodes_per_block: int) -> dict[str, Any]:
    """Check the sizes of an MPI task, and return all of them, those included which follow.

    Raises:
        BadSpecification: which of them is wrong, and what the block has.
    """
    if not given:
        raise BadSpecification(
            "this endpoint runs MPI tasks, and needs to know their size: set it, as in"
            ' {"num_nodes": 2, "ranks_per_node": 4}.'
        )
    _check_keys(given, _MPI_KEYS)
    sizes = {key: _size(key, given[key]) for key in _SIZES if key in given}
    nodes, per_node, ranks = (sizes.get(key) for key in _SIZES)
    if nodes is None:
        if per_node is None or ranks is None:
            raise BadSpecification(
                f"num_nodes is missing: set it to how many nodes the task needs, of the"
                f" {nodes_per_block} of a block."
            )
        nodes = _quotient("ranks_per_node", ranks, per_node)
    if per_node is None:
        per_node = 1 if ranks is None else _quotient("num_nodes", ranks, nodes)
    if ranks is None:
        ranks = nodes * per_node
    if ranks != nodes * per_node:
        raise BadSpecification(
            f"num_ranks is {ranks}, but num_nodes times ranks_per_node is {nodes} × {per_node} ="
            f" {nodes * per_node}: correct one of them, or leave one out."
        )
    if nodes > nodes_per_block:
        has = "1 node" if nodes_per_block == 1 else f"{nodes_per_block} nodes"
        raise BadSpecification(
            f"num_nodes is {nodes}, but a block of this endpoint has {has}: ask for no more, or"
            " have provider.nodes_per_block raised in the endpoint's configuration."
        )
    options = _launcher_options(given.get("launcher_options", ""))
    return {
        "num_nodes": nodes,
        "ranks_per_node": per_node,
        "num_ranks": ranks,
        "launcher_options": options,
    }


def _check_keys(given: Mapping[str, Any], known: Collection[str]) -> None:
    for key in given:
        if key not in known:
            raise BadSpecification(
                f"there is no {_show(key)}{did_you_mean(key, known)}; this endpoint takes"
                f" {', '.join(known)}. Change or remove it."
            )


def _size(key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _SIZE_LIMIT:
        return value
    raise BadSpecification(f"{key} must be an integer from 1, not {_show(value)}.")


def _quotient(key: str, ranks: int, divisor: int) -> int:
    if ranks % divisor:
        raise BadSpecification(
            f"num_ranks is {ranks}, which {key}, {divisor}, does not divide: change one of them."
        )
    return ranks // divisor


def _launcher_options(value: object) -> str:
    """Refuse what could not be part of an environment variable: it would end the worker."""
    is_text = isinstance(value, str) and value.isascii() and value.isprintable()
    if not is_text or len(str(value)) > _OPTIONS_LIMIT:
        raise BadSpecification(
            f"launcher_options must be one line of up to {_OPTIONS_LIMIT} ASCII characters, not"
            f" {_show(value)}."
        )
    return str(value)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
