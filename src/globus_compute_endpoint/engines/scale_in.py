# SPDX-License-Identifier: Apache-2.0
"""Letting blocks go of which none has a task, nor gets one meanwhile."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from parsl.jobs.states import TERMINAL_STATES

from globus_compute_endpoint.engines.interchange import HOLD_IDLE_BLOCKS, RESUME_BLOCKS

__all__ = ["scale_in"]


def scale_in(executor: Any, blocks: int, max_idletime: float | None = None) -> list[str]:
    """Cancel so many blocks at most, the longest idle first; return those which are cancelled.

    As ``HighThroughputExecutor.scale_in``, which cancels all that are idle, or not connected yet,
    when it is asked for 0, and a block which has been given a task since it was looked at.

    Raises:
        Exception: the scheduler or the interchange could not be asked.
    """
    if blocks < 1:
        return []
    idle = _idle_times(executor)
    wanted = [block for block, seconds in idle.items() if seconds > (max_idletime or -1)]
    wanted = sorted(wanted, key=lambda block: -idle[block])[:blocks]
    held = executor.command_client.run((HOLD_IDLE_BLOCKS, wanted))
    if held is None:  # an interchange which is not ours
        held = wanted
        for block in held:
            executor._hold_block(block)
    if not held:
        return []
    cancelled: list[str] = []
    try:
        outcome = executor.provider.cancel([executor.blocks_to_job_id[block] for block in held])
        cancelled += [block for block, is_gone in zip(held, outcome, strict=True) if is_gone]
    finally:
        if kept := sorted(set(held) - set(cancelled)):
            executor.command_client.run((RESUME_BLOCKS, kept))
    return cancelled


def _idle_times(executor: Any) -> dict[str, float]:
    """Return for how many seconds each block has had no task: for ever, if it never connected."""
    states = executor.status_facade
    active = [block for block, each in states.items() if each.state not in TERMINAL_STATES]
    times: dict[str, float] = defaultdict(lambda: math.inf)
    for manager in executor.connected_managers():
        idle = -math.inf if manager["tasks"] else float(manager["idle_duration"])
        times[manager["block_id"]] = min(times[manager["block_id"]], idle)
    return {block: times[block] for block in active if times[block] >= 0}
