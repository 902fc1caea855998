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
from globus_compute_endpoint.figures import EngineFigures
from globus_compute_endpoint.host.memory import OomWatch

__all__ = ["ProcessPoolEngine"]

log = logging.getLogger(__name__)

_DEATH_TIMEOUT = 10.0  # seconds from SIGKILL to the end
_RESPAWN_PAUSE = 1.0  # seconds before a worker which died idle is replaced


class ProcessPoolEngine(Engine):
    """Runs each task in one of ``max_workers`` processes, forked from this one.

    With ``lazy`` workers are made as they are first needed, by a process which may have threads
    by then: each is a fresh interpreter.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        lazy: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.slots = max_workers or os.cpu_count() or 1
        self._lazy = lazy
        self._queue: deque[TaskRequest] = deque()
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, TaskRequest] = {}
        self._memory = OomWatch()
        self._spared: set[str] = set()  # tasks whose worker died before it began with them

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

    @property
    def busy(self) -> int:
        return len(self._busy)

    def pause(self) -> None:
        self._queue.clear()
        super().pause()

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

    def status(self) -> EngineFigures:
        return EngineFigures(
            engine_type=type(self).__name__,
            total_workers=len(self._idle) + len(self._busy),
            idle_workers=len(self._idle),
            pending_tasks=len(self._queue),
            max_workers_per_node=self.slots,
        )

    def _spawn(self) -> WorkerProcess:
        return WorkerProcess(
            self.context.process_title,
            self._started,
            self._finished,
            self._died,
            fresh=self._lazy,
        )

    def _dispatch(self) -> None:
        while self._queue and not self.abandoned and not self.paused:
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

    def _started(self, process: WorkerProcess) -> None:
        if process in self._busy:
            self.context.started(self._busy[process].task_id)

    def _finished(self, process: WorkerProcess, packed: bytes) -> None:
        task = self._busy.pop(process, None)
        if task is None:
            return  # it is being stopped
        self._idle.append(process)
        self._spared.discard(task.task_id)
        self._dispatch()  # first, so that the worker is busy while we publish
        self.context.deliver(task.task_id, packed)
        self._note_busy()

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
        memory = self._memory.explain() if status == -signal.SIGKILL else None
        self._lost(task, process, _why_lost(process.pid, status, memory))
        self._note_busy()
        self._replace()

    def _lost(self, task: TaskRequest, process: WorkerProcess, reason: str) -> None:
        again: TaskRequest | None = task
        # Once for free where nothing has been run yet; not for ever.
        if process.started or task.task_id in self._spared:
            self._spared.discard(task.task_id)
            again = self.try_again(task, reason)
        else:
            self._spared.add(task.task_id)
        if again is not None and not self.paused:
            self._queue.appendleft(again)

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


def _why_lost(pid: int, status: int | None, memory: str | None) -> str:
    text = f"The worker process (pid {pid}) {describe(status)} while it ran the task."
    if memory is not None:
        text += f" The kernel did so because {memory}: ask for less, or for more memory."
    elif status is not None and status >= 0:
        text += " Does the function, or a library which it calls, end the process (os._exit)?"
    elif status == -signal.SIGKILL:
        text += " That is what running out of memory looks like: ask for less, or for more memory."
    elif status in {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL}:
        text += " A library written in C has crashed: check its version and the arguments."
    return text
