# SPDX-License-Identifier: Apache-2.0
"""What the user endpoint asks of an engine, and what an engine is given."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from globus_compute_endpoint.engines.attempts import lost_attempt, tell_attempts
from globus_compute_endpoint.figures import EngineFigures
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.worker import task as worker

__all__ = ["WORKER_LOST", "Engine", "EngineContext", "JobLog", "TaskRequest"]

log = logging.getLogger(__name__)

WORKER_LOST = "WorkerLost"  # the code of a task whose attempts were all lost


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task as it came: still packed, and read by nobody but its worker.

    ``history`` tells of its earlier attempts which were lost (:mod:`engines.attempts`).
    """

    task_id: str
    body: bytes
    received: int  # ns since the epoch
    resource_specification: dict[str, Any] = field(default_factory=dict)
    result_serializers: tuple[str, ...] = ()
    history: tuple[str, ...] = ()


class JobLog(Protocol):
    """Which batch jobs are ours, for the next life to cancel if this one cannot."""

    @property
    def earlier(self) -> tuple[str, ...]:
        """Return the jobs of earlier lives, none of which may be left to run tasks."""

    def note(self, job_id: str) -> None:
        """Note a job which is about to run; durable on return. From any thread.

        Raises:
            OSError: it cannot be noted: the job must not run.
        """

    def forget(self, job_id: str) -> None:
        """Note that a job has ended. From any thread."""


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What an engine needs of the user endpoint around it.

    ``deliver`` takes a task id and its packed result, ``failed`` what ends the endpoint,
    ``started`` the id of a task which has begun, and ``lost`` that of one which will be tried
    again, with the new entry of its history: all are to be called on the event loop. Workers
    mark in the directory ``marks`` which tasks they begin with.
    """

    endpoint_id: str
    directory: Path  # logs, sandboxes and run directories go here
    deliver: Callable[[str, bytes], None]
    failed: Callable[[Problem], None]
    process_title: str
    started: Callable[[str], None]
    lost: Callable[[str, str], None]
    marks: Path
    jobs: JobLog


class Engine(ABC):
    """Runs tasks, and delivers exactly one packed result for each, unless it is stopped.

    ``max_retries_on_system_failure`` says how often a task is run again whose attempt was lost.
    """

    #: How many tasks can run at a time, as far as that is known.
    slots: int

    def __init__(
        self,
        *,
        allowed_serializers: tuple[str, ...] | None = None,
        run_in_sandbox: bool = False,
        working_dir: Path | None = None,
        max_retries_on_system_failure: int = 0,
    ) -> None:
        self._allowed_serializers = allowed_serializers
        self._sandbox = run_in_sandbox
        self._working_dir = working_dir
        #: How often a task is tried again, whatever has cut it short.
        self.max_retries = max_retries_on_system_failure
        self._context: EngineContext | None = None
        self._quiet = asyncio.Event()
        #: Whether no further task is begun.
        self.paused = False
        #: From here on, what becomes of tasks is not reported any more.
        self.abandoned = False

    @property
    def context(self) -> EngineContext:
        """What :meth:`start` was given."""
        assert self._context is not None, "the engine was not started"
        return self._context

    async def cancel_earlier(self, jobs: JobLog) -> None:
        """Cancel the batch jobs of earlier lives, before :meth:`start`."""
        if jobs.earlier:
            numbers = ", ".join(jobs.earlier)
            log.error("Batch jobs of an earlier engine are not cancelled: %s", numbers)

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

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many tasks have begun, or may have, and are not finished."""

    def pause(self) -> None:
        """Begin no further task, as far as that is possible, and forget those not begun.

        No result is delivered for these.
        """
        self.paused = True
        self._note_busy()

    async def quiet(self) -> None:
        """Wait, after :meth:`pause`, until all tasks that have begun are finished."""
        await self._quiet.wait()

    def _note_busy(self) -> None:
        """Be called whenever ``busy`` may have become 0 in a pause."""
        if self.paused and not self.busy:
            self._quiet.set()

    def abandon(self) -> None:
        """Make ready for :meth:`stop`, at once: a task that is cut short now has not failed.

        systemd stops a scope by signalling all its processes, so workers may go before us.
        """
        self.abandoned = True

    @abstractmethod
    async def stop(self) -> None:
        """Stop, leaving no process behind. Tasks which still run are abandoned."""

    @abstractmethod
    def status(self) -> EngineFigures:
        """Return figures, of which those of blocks are as of the last look at them."""

    def worker_context(self, task: TaskRequest) -> dict[str, Any]:
        """Return what :func:`worker.task.execute` wants to know besides the task."""
        made: dict[str, Any] = {
            "endpoint_id": self.context.endpoint_id,
            "received": task.received,
            "directory": self._directory,
            "marks": str(self.context.marks),
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

    def try_again(
        self, task: TaskRequest, reason: str, code: str = WORKER_LOST
    ) -> TaskRequest | None:
        """Return a task whose attempt was lost, to be run again; None if that was its last.

        Then it has failed with ``code``, and its history is in the error.
        """
        entry = lost_attempt(reason)
        task = replace(task, history=(*task.history, entry))
        if len(task.history) > self.max_retries:
            self.fail(task, code, tell_attempts(task.history))
            return None
        log.warning(
            "Task %s is tried again: %s",
            task.task_id,
            reason.splitlines()[0],
            extra={"GC_TASK_ID": task.task_id},
        )
        self.context.lost(task.task_id, entry)
        return task

    def fail(self, task: TaskRequest, code: str, text: str) -> None:
        """Deliver an error result for a task which no worker could answer for."""
        packed = worker.failure(task.task_id, code, text, self.worker_context(task))
        self.context.deliver(task.task_id, packed)
