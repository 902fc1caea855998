# SPDX-License-Identifier: Apache-2.0
"""ProcessPoolEngine: tasks run in processes of their own on this machine.

Not ``concurrent.futures``: there a worker which dies takes the whole pool and every waiting task
with it, and results pass through two more threads. Here a dead worker costs the one task that it
ran, and the event loop speaks with the workers itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from typing import Any

from globus_compute_endpoint.engines.base import Engine, EngineContext, TaskRequest
from globus_compute_endpoint.engines.worker_process import WorkerProcess

__all__ = ["ProcessPoolEngine"]

log = logging.getLogger(__name__)

_DEATH_TIMEOUT = 10.0  # seconds from SIGKILL to the end
_RESPAWN_PAUSE = 1.0  # seconds before a worker which died idle is replaced


class ProcessPoolEngine(Engine):
    """Runs each task in one of ``max_workers`` processes, forked from this one.

    ``max_retries_on_system_failure`` says how often a task is run again whose worker died.
    With ``lazy`` workers are made as they are first needed, by a process which may have threads
    by then: each is a fresh interpreter.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_retries_on_system_failure: int = 0,
        lazy: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.slots = max_workers or os.cpu_count() or 1
        self._retries = max_retries_on_system_failure
        self._lazy = lazy
        self._queue: deque[TaskRequest] = deque()
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, TaskRequest] = {}
        self._losses: dict[str, list[str]] = {}  # of tasks whose worker has died: why

    async def start(self, context: EngineContext) -> None:
        await super().start(context)
        if not self._lazy:
            # All at once and first of all: while there is one thread, forking is safe.
            self._idle = [self._spawn() for _ in range(self.slots)]

    def submit(self, task: TaskRequest) -> None:
        if self._takes_no_specification(task):
            return
        self._queue.append(task)
        self._dispatch()

    async def stop(self) -> None:
        self.abandon()
        self._queue.clear()
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for each in workers:
            each.kill()
        ended = await asyncio.gather(*(each.gone(_DEATH_TIMEOUT) for each in workers))
        if not all(ended):  # the kernel holds them: a file system which hangs
            log.error("%d worker processes do not end", ended.count(False))

    def status(self) -> dict[str, Any]:
        return {
            "total_workers": len(self._idle) + len(self._busy),
            "idle_workers": len(self._idle),
            "pending_tasks": len(self._queue),
        }

    def _spawn(self) -> WorkerProcess:
        return WorkerProcess(
            self.context.process_title, self._finished, self._died, fresh=self._lazy
        )

    def _dispatch(self) -> None:
        while self._queue and not self.abandoned:
            if self._idle:
                process = self._idle.pop()
            elif self._lazy and len(self._busy) < self.slots:
                process = self._spawn()
            else:
                return
            task = self._queue.popleft()
            self._busy[process] = task
            self.note_start(task, f"worker process {process.pid}")
            process.run(task.task_id, task.body, self.worker_context(task))

    def _finished(self, process: WorkerProcess, packed: bytes) -> None:
        task = self._busy.pop(process, None)
        if task is None:
            return  # it is being stopped
        self._idle.append(process)
        self._losses.pop(task.task_id, None)
        self._dispatch()  # first, so that the worker is busy while we publish
        self.context.deliver(task.task_id, packed)

    def _died(self, process: WorkerProcess, status: int | None) -> None:
        if self.abandoned:
            return
        loop = asyncio.get_running_loop()
        task = self._busy.pop(process, None)
        if task is None:
            log.warning("Idle worker process %d %s", process.pid, describe(status))
            self._idle.remove(process)
            loop.call_later(_RESPAWN_PAUSE, self._replace)
            return
        log.warning(
            "Worker process %d %s %s task %s",
            process.pid,
            describe(status),
            "while it ran" if process.started else "before it began with",
            task.task_id,
            extra={"GC_TASK_ID": task.task_id},
        )
        losses = [*self._losses.pop(task.task_id, ()), _why_lost(process.pid, status)]
        # Once more for free where nothing has been run yet; not for ever.
        if len(losses) <= self._retries or (len(losses) == 1 and not process.started):
            self._losses[task.task_id] = losses
            self._queue.appendleft(task)
        else:
            self.fail(task, "WorkerLost", self.tell_attempts(losses))
        self._replace()

    def _replace(self) -> None:
        if not self.abandoned and not self._lazy:
            self._idle.append(self._spawn())
        self._dispatch()


def describe(status: int | None) -> str:
    """Say how a process ended; ``status`` is an exit status, or minus a signal's number."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def _why_lost(pid: int, status: int | None) -> str:
    text = f"The worker process (pid {pid}) {describe(status)} while it ran the task."
    if status is not None and status >= 0:
        text += " Does the function, or a library which it calls, end the process (os._exit)?"
    elif status == -signal.SIGKILL:
        text += " That is what running out of memory looks like: ask for less, or for more memory."
    elif status in {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL}:
        text += " A library written in C has crashed: check its version and the arguments."
    return text
