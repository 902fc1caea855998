# SPDX-License-Identifier: Apache-2.0
"""ThreadPoolEngine: tasks share this process. Fast, and as isolated as threads are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from globus_compute_endpoint.config.loading import KeyPath, WrongOption
from globus_compute_endpoint.engines.base import Engine, EngineContext, TaskRequest
from globus_compute_endpoint.engines.handoff import Handoff
from globus_compute_endpoint.engines.process_pool import ProcessPoolEngine
from globus_compute_endpoint.figures import EngineFigures
from globus_compute_endpoint.host.patience import in_thread
from globus_compute_endpoint.worker import task as worker

__all__ = ["ThreadPoolEngine"]

log = logging.getLogger(__name__)

_CHDIR_TIMEOUT = 3.0

Outcome = bytes | BaseException | None  # None: it has begun


class ThreadPoolEngine(Engine):
    """Runs tasks in threads, and ShellFunctions, which change directories, in processes.

    A task which calls ``os._exit`` ends the whole user endpoint, and what runs beside it: the
    next one finds their start marks. No task can be interrupted.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if self._sandbox:
            raise _refuse(("engine", "run_in_sandbox"), "threads share one working directory")
        self.slots = max_workers or min(32, (os.cpu_count() or 1) + 4)
        self._shell = ProcessPoolEngine(self.slots, lazy=True, **options)
        self._queue: SimpleQueue[tuple[TaskRequest, dict[str, Any]] | None] = SimpleQueue()
        self._outstanding = 0  # in the queue and in threads
        self._handoff: Handoff[tuple[TaskRequest, Outcome]] | None = None
        self._directory_before = Path("/")  # all threads share one: the process's

    async def start(self, context: EngineContext) -> None:
        await super().start(context)
        if os.environ.get("GC_TASK_TIMEOUT"):
            raise _refuse(("GC_TASK_TIMEOUT in the environment",), "threads are not interruptible")
        self._directory_before = _enter(Path(self._directory))
        self._handoff = Handoff(self._done)
        for slot in range(self.slots):
            # Daemons: one whose task never ends must not keep the process.
            Thread(target=self._work, name=f"task-{slot}", daemon=True).start()
        await self._shell.start(replace(context, deliver=self._shell_done))

    def submit(self, task: TaskRequest) -> None:
        if self._takes_no_specification(task):
            return
        self._outstanding += 1
        self.note_start(task, "a thread")
        self._queue.put((task, self.worker_context(task) | {"in_thread": True}))

    @property
    def busy(self) -> int:
        return min(self._outstanding, self.slots) + self._shell.busy

    def pause(self) -> None:
        self._withdraw()
        self._shell.pause()
        super().pause()

    def abandon(self) -> None:
        super().abandon()
        self._shell.abandon()

    async def stop(self) -> None:
        self.abandon()
        self._withdraw()
        for _ in range(self.slots):
            self._queue.put(None)
        await self._shell.stop()
        with contextlib.suppress(OSError, TimeoutError):  # the home may be away
            await in_thread(partial(os.chdir, self._directory_before), _CHDIR_TIMEOUT)

    def status(self) -> EngineFigures:
        busy = min(self._outstanding, self.slots)
        shell = self._shell.status()
        return EngineFigures(
            engine_type=type(self).__name__,
            total_workers=self.slots + shell.total_workers,
            idle_workers=self.slots - busy + shell.idle_workers,
            pending_tasks=self._outstanding - busy + shell.pending_tasks,
            max_workers_per_node=self.slots,
        )

    def _withdraw(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
                self._outstanding -= 1

    def _work(self) -> None:
        assert self._handoff is not None
        while (item := self._queue.get()) is not None:
            task, context = item
            outcome: Outcome
            context["begun"] = partial(self._handoff.put, (task, None))
            try:
                outcome = worker.execute(task.task_id, task.body, context)
            except BaseException as error:  # noqa: BLE001  (told on the loop, see _done)
                outcome = error
            self._handoff.put((task, outcome))

    def _done(self, item: tuple[TaskRequest, Outcome]) -> None:
        task, outcome = item
        if outcome is None:
            self.context.started(task.task_id)
            return
        self._outstanding -= 1
        if isinstance(outcome, bytes):
            self.context.deliver(task.task_id, outcome)
        elif not isinstance(outcome, worker.NeedsProcess):
            log.error(
                "Task %s could not be run",
                task.task_id,
                exc_info=outcome,
                extra={"GC_TASK_ID": task.task_id},
            )
            self.fail(task, "WorkerDefect", f"The worker failed: {outcome!r}. Submit again.")
        elif not self.paused:
            self._shell.submit(task)
        self._note_busy()

    def _shell_done(self, task_id: str, packed: bytes) -> None:
        self.context.deliver(task_id, packed)
        asyncio.get_running_loop().call_soon(self._note_busy)  # when the worker is free


def _enter(directory: Path) -> Path:
    """Make a directory the process's, and return the one before."""
    before = Path.cwd()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        reason = f"{directory} cannot be used: {error.strerror}"
        raise WrongOption(("engine", "working_dir"), reason) from error
    return before


def _refuse(path: KeyPath, reason: str) -> WrongOption:
    remedy = "use ProcessPoolEngine or GlobusComputeEngine, or leave it out"
    return WrongOption(path, f"ThreadPoolEngine cannot offer it: {reason}; {remedy}")
