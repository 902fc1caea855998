# SPDX-License-Identifier: Apache-2.0
"""ThreadPoolEngine: tasks share this process. Fast, and as isolated as threads are."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..problem import ExitStatus, Problem
from ..worker import task as worker
from .base import Engine, EngineContext, TaskRequest
from .handoff import Handoff
from .process_pool import ProcessPoolEngine

__all__ = ["ThreadPoolEngine"]

log = logging.getLogger(__name__)

Outcome = bytes | BaseException


class ThreadPoolEngine(Engine):
    """Runs tasks in threads, and ShellFunctions, which change directories, in processes.

    A task which calls ``os._exit`` ends the whole user endpoint; none can be interrupted.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if self._sandbox:
            raise _refuse("run_in_sandbox", "threads share one working directory")
        self.slots = max_workers or min(32, (os.cpu_count() or 1) + 4)
        self._threads: ThreadPoolExecutor | None = None
        self._shell = ProcessPoolEngine(self.slots, lazy=True, **options)
        self._outstanding = 0
        self._handoff: Handoff[tuple[TaskRequest, Outcome]] | None = None

    async def start(self, context: EngineContext) -> None:
        await super().start(context)
        if os.environ.get("GC_TASK_TIMEOUT"):
            raise _refuse("a time-out of tasks (GC_TASK_TIMEOUT)", "threads are not interruptible")
        self._handoff = Handoff(self._done)
        self._threads = ThreadPoolExecutor(self.slots, thread_name_prefix="task")
        await self._shell.start(context)

    def submit(self, task: TaskRequest) -> None:
        assert self._threads is not None, "the engine was not started"
        context = self.worker_context(task) | {"in_thread": True}
        self._outstanding += 1
        self.note_start(task, "a thread")
        self._threads.submit(self._run, task, context)

    def abandon(self) -> None:
        super().abandon()
        self._shell.abandon()

    async def stop(self) -> None:
        self.abandon()
        if self._threads is not None:
            # A thread which runs a task cannot be ended, and must not be waited for.
            self._threads.shutdown(wait=False, cancel_futures=True)
        await self._shell.stop()

    def status(self) -> dict[str, Any]:
        busy = min(self._outstanding, self.slots)
        return {
            "total_workers": self.slots,
            "idle_workers": self.slots - busy,
            "pending_tasks": self._outstanding - busy,
        }

    def _run(self, task: TaskRequest, context: dict[str, Any]) -> None:
        outcome: Outcome
        try:
            outcome = worker.execute(task.task_id, task.body, context)
        except BaseException as error:  # noqa: BLE001  (told on the loop, see _done)
            outcome = error
        assert self._handoff is not None
        self._handoff.put((task, outcome))

    def _done(self, item: tuple[TaskRequest, Outcome]) -> None:
        task, outcome = item
        self._outstanding -= 1
        if isinstance(outcome, bytes):
            self.context.deliver(task.task_id, outcome)
        elif isinstance(outcome, worker.NeedsProcess):
            self._shell.submit(task)
        else:
            log.error(
                "Task %s could not be run",
                task.task_id,
                exc_info=outcome,
                extra={"GC_TASK_ID": task.task_id},
            )
            self.fail(task, "WorkerDefect", f"The worker failed: {outcome!r}. Submit again.")


def _refuse(option: str, reason: str) -> Problem:
    return Problem(
        "ENGINE_CANNOT",
        f"ThreadPoolEngine cannot offer {option}: {reason}",
        "use ProcessPoolEngine or GlobusComputeEngine, or leave the option out",
        ExitStatus.CONFIGURATION,
    )
