# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a block an MPI task gets, in place of Parsl's way of telling.

Parsl's looks for ever, until Python's stack is full, whenever a task which waits needs more nodes
than were just returned, and loses the result which came with these; after a task that asks for
more than there are, the pool is of no use. This module travels to nodes by value.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections import deque
from typing import Any


class NodeScheduler:
    """Gives tasks their nodes, in the order in which they came: none which waits is overtaken."""

    def __init__(self, tasks: Any, results: Any) -> None:
        self._tasks = tasks
        self._results = results
        self._nodes = _nodes_of_block()
        self._lock = threading.Lock()  # for what follows
        self._free = list(self._nodes)
        self._waiting: deque[dict[str, Any]] = deque()
        self._taken: dict[int, list[str]] = {}

    def put_task(self, task: dict[str, Any]) -> None:
        wanted = task["context"]["resource_spec"]["num_nodes"]
        if wanted > len(self._nodes):
            self._results.put(_refusal(task["task_id"], wanted, self._nodes))
            return
        with self._lock:
            self._waiting.append(task)
            self._assign()

    def get_result(self, block: bool = True, timeout: float | None = None) -> bytes | None:
        packed: bytes | None = self._results.get(block, timeout)
        if packed is not None:
            task_id = pickle.loads(packed).get("task_id")  # noqa: S301  (from our own worker)
            with self._lock:
                self._free += self._taken.pop(task_id, [])
                self._assign()
        return packed

    def _assign(self) -> None:
        while self._waiting:
            specification = self._waiting[0]["context"]["resource_spec"]
            wanted = specification["num_nodes"]
            if wanted > len(self._free):
                return
            task = self._waiting.popleft()
            taken, self._free = self._free[:wanted], self._free[wanted:]
            self._taken[task["task_id"]] = taken
            specification["MPI_NODELIST"] = ",".join(taken)
            self._tasks.put(task)


def _nodes_of_block() -> list[str]:
    from parsl.executors.high_throughput.mpi_resource_management import (
        Scheduler,
        get_nodes_in_batchjob,
        identify_scheduler,
    )

    scheduler = identify_scheduler()
    if scheduler is Scheduler.Unknown:
        sys.exit(
            "GlobusMPIEngine: this block does not know its nodes, for it has neither SLURM_NODELIST"
            " nor PBS_NODEFILE in its environment: use SlurmProvider or PBSProProvider, or export"
            " one of them in worker_init."
        )
    return list(dict.fromkeys(get_nodes_in_batchjob(scheduler)))  # PBS names one for each rank


def _refusal(task_id: int, wanted: int, nodes: list[str]) -> bytes:
    from parsl.app.errors import RemoteExceptionWrapper
    from parsl.executors.errors import InvalidResourceSpecification
    from parsl.serialize import serialize

    text = f"num_nodes is {wanted}, and the block has but {len(nodes)} of its nodes: {nodes}"
    try:
        raise InvalidResourceSpecification({"num_nodes"}, text)
    except InvalidResourceSpecification:
        error = serialize(RemoteExceptionWrapper(*sys.exc_info()))
    return pickle.dumps({"type": "result", "task_id": task_id, "exception": error})
