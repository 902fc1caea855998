# SPDX-License-Identifier: Apache-2.0
"""What the user endpoint asks of an engine, and what an engine is given."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.worker import task as worker

__all__ = ["Engine", "EngineContext", "TaskRequest"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task as it came: still packed, and read by nobody but its worker."""

    task_id: str
    body: bytes
    received: int  # ns since the epoch
    resource_specification: dict[str, Any] = field(default_factory=dict)
    result_serializers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What an engine needs of the user endpoint around it.

    ``deliver`` takes a task id and its packed result, and ``failed`` what ends the endpoint:
    both are to be called on the event loop.
    """

    endpoint_id: str
    directory: Path  # logs, sandboxes and run directories go here
    deliver: Callable[[str, bytes], None]
    failed: Callable[[Problem], None]
    process_title: str


class Engine(ABC):
    """Runs tasks, and delivers exactly one packed result for each, unless it is stopped."""

    #: How many tasks can run at a time, as far as that is known.
    slots: int

    def __init__(
        self,
        *,
        allowed_serializers: tuple[str, ...] | None = None,
        run_in_sandbox: bool = False,
        working_dir: Path | None = None,
    ) -> None:
        self._allowed_serializers = allowed_serializers
        self._sandbox = run_in_sandbox
        self._working_dir = working_dir
        self._context: EngineContext | None = None
        #: From here on, what becomes of tasks is not reported any more.
        self.abandoned = False

    @property
    def context(self) -> EngineContext:
        """What :meth:`start` was given."""
        assert self._context is not None, "the engine was not started"
        return self._context

    async def start(self, context: EngineContext) -> None:
        """Make ready to take tasks.

        Raises:
            Problem: it cannot be started as it is configured.
        """
        self._context = context
        self._directory = str(context.directory / (self._working_dir or "tasks_working_dir"))

    @abstractmethod
    def submit(self, task: TaskRequest) -> None:
        """Take a task. Called on the event loop; must not block."""

    def abandon(self) -> None:
        """Make ready for :meth:`stop`, at once: a task that is cut short now has not failed.

        systemd stops a scope by signalling all its processes, so workers may go before us.
        """
        self.abandoned = True

    @abstractmethod
    async def stop(self) -> None:
        """Stop, leaving no process behind. Tasks which still run are abandoned."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Return figures for the heartbeat."""

    def worker_context(self, task: TaskRequest) -> dict[str, Any]:
        """Return what :func:`worker.task.execute` wants to know besides the task."""
        made: dict[str, Any] = {
            "endpoint_id": self.context.endpoint_id,
            "received": task.received,
            "directory": self._directory,
        }
        if self._sandbox:
            made["sandbox"] = True
        if self._allowed_serializers:
            made["allowed_serializers"] = self._allowed_serializers
        if task.result_serializers:
            made["result_serializers"] = task.result_serializers
        return made

    def _takes_no_specification(self, task: TaskRequest) -> bool:
        """Refuse a task which asks for resources, where there are none to choose from."""
        if task.resource_specification:
            name = type(self).__name__
            text = f"{name} takes no resource_specification: remove it, or use another endpoint."
            self.fail(task, "ResourceSpecificationError", text)
        return bool(task.resource_specification)

    def note_start(self, task: TaskRequest, where: str) -> None:
        """Log that a task has been handed on to where it runs."""
        log.info("Task %s given to %s", task.task_id, where, extra={"GC_TASK_ID": task.task_id})

    def tell_attempts(self, reasons: list[str]) -> str:
        """Return the last reason for which a task was lost, and what became of the others."""
        *_, last = reasons
        if len(reasons) == 1:
            return last
        history = [f"  {n}. {each.splitlines()[0]}" for n, each in enumerate(reasons, 1)]
        return "\n".join([last, f"It was tried {len(reasons)} times:", *history])

    def fail(self, task: TaskRequest, code: str, text: str) -> None:
        """Deliver an error result for a task which no worker could answer for."""
        packed = worker.failure(task.task_id, code, text, self.worker_context(task))
        self.context.deliver(task.task_id, packed)
