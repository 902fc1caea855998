# SPDX-License-Identifier: Apache-2.0
"""Which tasks are ours: from their arrival until the broker has confirmed their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

from globus_compute_endpoint.amqp import Delivery
from globus_compute_endpoint.engines.base import TaskRequest

__all__ = ["Ledger", "MemoryLedger"]

_REMEMBERED = 20_000  # ids of tasks which are done: a late redelivery is not run again


class Ledger(ABC):
    """Takes charge of tasks and of their results, so that none is run twice or lost.

    All methods are called on the event loop and return at once; the callbacks are called when
    what they wait for is safe.
    """

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """How many tasks are admitted and not yet settled."""

    @abstractmethod
    def admit(
        self, task: TaskRequest, delivery: Delivery, run: Callable[[TaskRequest], None]
    ) -> None:
        """Take charge of a task, then ``run`` it; not if it is here already, or was."""

    @abstractmethod
    def store(self, task_id: str, result: bytes, publish: Callable[[str, bytes], None]) -> None:
        """Take charge of a result, then ``publish`` it."""

    @abstractmethod
    def settle(self, task_id: str) -> None:
        """The broker has confirmed the result: the task is done."""


class MemoryLedger(Ledger):
    """Leaves a task in its queue, unacknowledged, until its result is confirmed."""

    def __init__(self) -> None:
        self._deliveries: dict[str, Delivery] = {}
        self._done: OrderedDict[str, None] = OrderedDict()

    @property
    def outstanding(self) -> int:
        return len(self._deliveries)

    def admit(
        self, task: TaskRequest, delivery: Delivery, run: Callable[[TaskRequest], None]
    ) -> None:
        if task.task_id in self._done:
            delivery.ack()
            return
        known = task.task_id in self._deliveries
        # Of a task which is delivered again after a loss of the connection, only the new
        # delivery can be acknowledged.
        self._deliveries[task.task_id] = delivery
        if not known:
            run(task)

    def store(self, task_id: str, result: bytes, publish: Callable[[str, bytes], None]) -> None:
        publish(task_id, result)

    def settle(self, task_id: str) -> None:
        if (delivery := self._deliveries.pop(task_id, None)) is not None:
            delivery.ack()
        self._done[task_id] = None
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
