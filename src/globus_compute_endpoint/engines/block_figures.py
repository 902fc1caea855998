# SPDX-License-Identifier: Apache-2.0
"""What is known of an executor's blocks, and of the worker pools in them."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from parsl.jobs.states import TERMINAL_STATES, JobState

from globus_compute_endpoint.engines.interchange import HOSTS
from globus_compute_endpoint.figures import HOSTS_SHOWN, JOBS_SHOWN, EngineFigures, JobFigures

__all__ = ["BlockFigures"]


@dataclass(frozen=True, slots=True)
class _Seen:
    state: JobState
    since: int  # seconds since the epoch


class BlockFigures:
    """Keeps figures of an executor's blocks as of the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._jobs: list[JobFigures] = []

    def look(self, executor: Any) -> None:
        """Ask the interchange for its pools, and take note. May block; from one thread at a time.

        Raises:
            Exception: Parsl's, where the interchange does not answer in time.
        """
        pools = defaultdict(list)
        hosts = executor.command_client.run(HOSTS) or {}
        for each in executor.connected_managers():
            host = hosts.get(each["manager"])
            pools[str(each["block_id"])].append(each | {"host": host})
        seen: dict[str, _Seen] = {}
        jobs = []
        for block, status in list(executor.status_facade.items()):
            if status.state in TERMINAL_STATES:
                continue
            # A provider asks its scheduler once a minute; its workers come before that.
            state = JobState.RUNNING if pools[block] else status.state
            before = self._seen.get(block)
            new = before is None or before.state != state
            seen[block] = _Seen(state, int(time.time())) if new or not before else before
            job_id = executor.blocks_to_job_id.get(block, "")
            jobs.append(_figures(block, job_id, seen[block], pools[block]))
        self._seen, self._jobs = seen, jobs

    @property
    def has_pools(self) -> bool:
        """Whether there were workers at the last look."""
        return any(each.pools for each in self._jobs)

    def tell(self, executor: Any, engine: str, tasks: int) -> EngineFigures:
        """Return figures for an engine with so many ``tasks`` which are not done."""
        provider = executor.provider
        states = [each.state for each in self._jobs]
        running = states.count(JobState.RUNNING.name)
        workers = sum(each.workers for each in self._jobs)
        # The interchange gives a task to a worker which has none at once.
        busy = min(tasks, workers)
        return EngineFigures(
            engine_type=engine,
            total_workers=workers,
            idle_workers=workers - busy,
            pending_tasks=tasks - busy,
            managers=sum(each.pools for each in self._jobs),
            blocks_running=running,
            blocks_pending=len(states) - running,
            min_blocks=provider.min_blocks,
            max_blocks=min(provider.max_blocks, 2**53),
            scaling_enabled=provider.max_blocks > provider.min_blocks,
            nodes=running * provider.nodes_per_block,
            nodes_per_block=provider.nodes_per_block,
            max_workers_per_node=math.ceil(executor.workers_per_node),
            prefetch_capacity=executor.prefetch_capacity,
            jobs=tuple(self._jobs[:JOBS_SHOWN]),
            jobs_not_shown=max(len(self._jobs) - JOBS_SHOWN, 0),
        )


def _figures(block: str, job_id: Any, seen: _Seen, pools: list[dict[str, Any]]) -> JobFigures:
    hosts = dict.fromkeys(each["host"] for each in pools if each["host"])
    return JobFigures(
        job_id=job_id,
        block=block,
        state=seen.state.name,
        since=seen.since,
        pools=len(pools),
        workers=sum(each["worker_count"] for each in pools),
        tasks=sum(each["tasks"] for each in pools),
        hosts=tuple(hosts)[:HOSTS_SHOWN],
    )
