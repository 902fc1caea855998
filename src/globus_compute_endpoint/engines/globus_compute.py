# SPDX-License-Identifier: Apache-2.0
"""GlobusComputeEngine: tasks run on blocks of nodes, by Parsl's HighThroughputExecutor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from parsl.executors.errors import BadStateException, InvalidResourceSpecification
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.config.engines import BlocksEngineConfig
from globus_compute_endpoint.engines.base import (
    WORKER_LOST,
    Engine,
    EngineContext,
    JobLog,
    TaskRequest,
)
from globus_compute_endpoint.engines.batch_jobs import cancel_jobs, runs_batch_jobs
from globus_compute_endpoint.engines.containers import (
    check_containers,
    containers_of,
    remove_containers,
)
from globus_compute_endpoint.engines.handoff import Handoff
from globus_compute_endpoint.engines.htex import ExecutorLife
from globus_compute_endpoint.engines.htex_options import executor_factory
from globus_compute_endpoint.engines.losses import Loss, explain
from globus_compute_endpoint.engines.resources import BadSpecification, for_htex
from globus_compute_endpoint.engines.starts import Starts
from globus_compute_endpoint.figures import EngineFigures
from globus_compute_endpoint.host.memory import OomWatch
from globus_compute_endpoint.host.patience import in_thread
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.worker.shipping import payload

__all__ = ["GlobusComputeEngine"]

log = logging.getLogger(__name__)

_SYSTEM_FAILURES = (ManagerLost, WorkerLost, BadStateException)
_BAD_SPECIFICATION = "ResourceSpecificationError"
_NO_WORKERS = "NoWorkers"
_RESTART_PAUSE = 1.0  # seconds, so that a machine out of memory is not pressed
_SLOTS_LIMIT = 4096
_KEPT_RUNS = 5
_CLEANING_TIMEOUT = 60.0
_CANCELLING_PATIENCE = 30.0  # seconds until tasks are taken all the same
_CANCELLING_ATTEMPTS = 20

Done = tuple[ExecutorLife, str, Future[bytes]]


class GlobusComputeEngine(Engine):
    """Runs tasks in HTEX. An executor which is lost is replaced when the next task needs it."""

    def __init__(self, config: BlocksEngineConfig, **options: Any) -> None:
        super().__init__(**options)
        self._config = config
        self._make_executor = executor_factory(config)
        executor = self._make_executor()
        provider = executor.provider
        #: What a task can have at most.
        self.nodes_per_block: int = provider.nodes_per_block
        nodes = min(provider.max_blocks, _SLOTS_LIMIT) * provider.nodes_per_block
        self._remote = runs_batch_jobs(provider)
        check_containers(config, local=not self._remote)
        self._workers_per_node = executor.workers_per_node
        self.slots = int(min(_SLOTS_LIMIT, nodes * self._workers_per_node))
        self._life: ExecutorLife | None = None
        self._starting: asyncio.Task[None] | None = None
        self._burials: set[asyncio.Task[None]] = set()
        self._cancelling: asyncio.Task[None] | None = None
        self._memory = OomWatch()
        # Tasks whose attempt may be lost, why, and in a block of which life if it goes on.
        self._lost_ones: dict[str, tuple[Loss, ExecutorLife | None]] = {}
        self._sorting: asyncio.Task[None] | None = None
        self._tasks: dict[str, TaskRequest] = {}  # all that are not delivered yet
        self._handoff: Handoff[Done] | None = None

    async def cancel_earlier(self, jobs: JobLog) -> None:
        """Cancel what earlier lives have left with the scheduler.

        One which is away is asked again for a while, and by each later life.
        """
        if not self._remote:
            await super().cancel_earlier(jobs)
        elif jobs.earlier:
            log.info("Cancelling %d batch jobs of an earlier life", len(jobs.earlier))
            self._cancelling = asyncio.create_task(self._cancel_jobs(jobs), name="htex cancelling")
            await asyncio.wait([self._cancelling], timeout=_CANCELLING_PATIENCE)
            if not self._cancelling.done():
                log.error("Going on; batch jobs of an earlier life are still to be cancelled")

    async def _cancel_jobs(self, jobs: JobLog) -> None:
        left = jobs.earlier
        pause = Backoff(1.0, 60.0)
        for _ in range(_CANCELLING_ATTEMPTS):
            with contextlib.suppress(TimeoutError):
                left = await in_thread(partial(self._cancel, left, jobs), _CLEANING_TIMEOUT)
            if not left:
                return
            await asyncio.sleep(pause.next())
        log.error("Batch jobs of an earlier life are not cancelled: %s", ", ".join(left))

    def _cancel(self, left: tuple[str, ...], jobs: JobLog) -> tuple[str, ...]:
        return cancel_jobs(self._make_executor().provider, left, jobs.forget)

    async def start(self, context: EngineContext) -> None:
        await super().start(context)
        self._handoff = Handoff(self._done)
        self._starts = Starts(context, self._tasks.__contains__)
        _find_parsl_on_path()
        try:
            await in_thread(self._remove_old_runs, _CLEANING_TIMEOUT)
            await self._start_life()
        except Exception as error:
            raise Problem(
                "HTEX_START",
                f"Parsl's executor cannot be started: {str(error) or 'it does not answer'}",
                f"see the logs in {self._directory_of_runs}",
                ExitStatus.INTERNAL,
            ) from error

    def submit(self, task: TaskRequest) -> None:
        self._tasks[task.task_id] = task
        self._send(task)

    @property
    def busy(self) -> int:
        # Which tasks Parsl has given to workers is known when it is asked, and that is in a pause.
        held = self._life.held if self._life is not None else 0
        return len(self._tasks) if held is None else min(held, len(self._tasks))

    def pause(self) -> None:
        if self._life is not None:
            self._life.pause()
        super().pause()

    async def stop(self) -> None:
        self.abandon()
        begun = [each for each in (self._starting, self._sorting, self._cancelling) if each]
        for each in begun:
            each.cancel()
        if begun:
            await asyncio.wait(begun)  # one may just have made a life, or be ending it
        if self._life is not None:
            await self._life.stop()
        if self._burials:
            await asyncio.wait(self._burials)

    def status(self) -> EngineFigures:
        name = type(self).__name__
        if self._life is None:
            return EngineFigures(engine_type=name, pending_tasks=len(self._tasks))
        return self._life.status(name, len(self._tasks))

    def checked(self, specification: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's ``resource_specification`` as Parsl can have it.

        Raises:
            BadSpecification: it cannot.
        """
        return for_htex(specification)

    def worker_context(self, task: TaskRequest) -> dict[str, Any]:
        return super().worker_context(task) | {"marks_sync": self._remote}

    @property
    def _directory_of_runs(self) -> Path:
        return self.context.directory / "htex"

    def _remove_old_runs(self) -> None:
        """Keep the logs of the last few runs only, and none of their containers."""
        self._directory_of_runs.mkdir(exist_ok=True)
        remove_containers(self._directory_of_runs)
        runs = sorted(self._directory_of_runs.iterdir(), key=lambda run: run.stat().st_mtime)
        for run in runs[:-_KEPT_RUNS]:
            shutil.rmtree(run, ignore_errors=True)

    async def _start_life(self) -> None:
        scaling = self._config.job_status_kwargs
        life = ExecutorLife(
            await in_thread(self._make_executor, _CLEANING_TIMEOUT),
            directory=self._directory_of_runs,
            strategy=self._config.strategy,
            max_idletime=scaling.max_idletime,
            period=scaling.strategy_period,
            jobs=self.context.jobs,
            job_name=f"globus-compute-{self.context.endpoint_id}",
            containers=containers_of(
                self._config, self.context, Path(self._directory), local=not self._remote
            ),
            on_look=self._looked,
            on_death=self._lost,
        )
        try:
            await life.start()
        except BaseException:
            await life.stop()
            raise
        self._life = life
        if self.paused:
            life.pause()

    def _send(self, task: TaskRequest) -> None:
        if self._life is None:
            self._revive()  # and then all tasks are sent
            return
        life = self._life
        try:
            context, buffer = payload(task.task_id, task.body, self.worker_context(task))
            if specification := self.checked(task.resource_specification):
                context["resource_spec"] = specification
        except BadSpecification as error:
            self._finish(task, _BAD_SPECIFICATION, str(error))
            return
        except Exception as error:  # of this task alone; the next executor would get it, too
            log.exception("Task %s cannot be sent", task.task_id)
            self._finish(task, "WorkerDefect", _defect(error))
            return
        try:
            future = life.submit(context, buffer)
        except Exception as error:  # whatever has put the executor into a bad state
            log.exception("The executor takes no more tasks")
            reason = f"The endpoint's executor has broken down: {error}"
            self._lost(life, reason, can_be_helped=True)
            return
        self.note_start(task, "Parsl's executor")
        assert self._handoff is not None
        handoff = self._handoff
        future.add_done_callback(lambda done: handoff.put((life, task.task_id, done)))

    def _done(self, item: Done) -> None:
        life, task_id, future = item
        task = self._tasks.get(task_id)
        if task is None or life is not self._life or self.abandoned:
            return  # an executor which was given up: its tasks were dealt with
        error = future.exception()
        if error is None:
            self._deliver(task, future.result())
        elif isinstance(error, _SYSTEM_FAILURES):
            here = isinstance(error, WorkerLost) and not self._remote
            memory = self._memory.explain() if here else None
            loss = Loss(explain(error, memory), not isinstance(error, WorkerLost))
            self._lost_ones[task_id] = (loss, life)
            self._sort_out()
        elif isinstance(error, InvalidResourceSpecification):  # a block was given fewer nodes
            self._finish(task, _BAD_SPECIFICATION, f"resource_specification: {error.message}")
        else:
            self._finish(task, "WorkerDefect", _defect(error))

    def _deliver(self, task: TaskRequest, packed: bytes) -> None:
        self._forget(task)
        self._starts.check(packed)
        self.context.deliver(task.task_id, packed)
        if self.paused and self._life is not None:
            self._life.look()  # and count those which are left
        self._note_busy()

    async def _looked(self) -> None:
        await self._starts.read()
        self._note_busy()

    def _lost(self, life: ExecutorLife, reason: str, can_be_helped: bool) -> None:
        """Give up an executor: its tasks are tried again where that is allowed, else fail."""
        if self.abandoned or life is not self._life:
            return
        self._life = None
        self._bury(life)
        if can_be_helped:
            self._lost_ones |= dict.fromkeys(self._tasks, (Loss(reason, True), None))
            self._sort_out()
            return
        for task in list(self._tasks.values()):
            self._try_again(task, reason, _NO_WORKERS)

    def _sort_out(self) -> None:
        if self._sorting is None:
            self._sorting = asyncio.create_task(self._sort_out_lost(), name="htex losses")

    async def _sort_out_lost(self) -> None:
        """Tell the tasks whose attempt was lost from those which had none yet."""
        try:
            while self._lost_ones:
                lost = list(self._lost_ones)
                await self._starts.read()
                told = await self._tell_blocks(lost)
                if self.abandoned:
                    return
                for task_id in lost:  # till now, a new executor would not have been sent them
                    loss, _ = self._lost_ones.pop(task_id)
                    task = self._tasks.get(task_id)
                    if task is None:
                        continue
                    if self._starts.may_have_begun(task_id):
                        self._try_again(task, told.get(task_id, loss.reason))
                    elif not self.paused:
                        self._send(task)
        finally:
            self._sorting = None
        self._note_busy()

    async def _tell_blocks(self, lost: Sequence[str]) -> dict[str, str]:
        """Return the reasons of losses with what is known of the blocks where they happened."""
        life = self._life
        here = {
            task_id: (self._lost_ones[task_id][0], place)
            for task_id in lost
            if self._lost_ones[task_id][1] is life
            and (place := self._starts.place(task_id)) is not None
        }
        if life is None or not here:
            return {}
        try:
            return await life.explain(here)
        except (OSError, TimeoutError) as error:
            log.warning("Nothing can be told of lost blocks: %s", error or "no answer")
            return {}

    def _bury(self, life: ExecutorLife) -> None:
        burial = asyncio.create_task(life.stop(given_up=True), name="htex burial")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    def _revive(self) -> None:
        if self._starting is None and not self.abandoned:
            self._starting = asyncio.create_task(self._start_again(), name="htex restart")

    async def _start_again(self) -> None:
        await asyncio.sleep(_RESTART_PAUSE)
        try:
            await self._start_life()
        except Exception as error:
            log.exception("The executor cannot be started again")
            reason = f"The endpoint's executor is lost, and cannot be started again: {error}"
            for task in list(self._tasks.values()):
                self._finish(task, "ExecutorLost", reason)
            self.context.failed(
                Problem("HTEX_RESTART", reason, "see the endpoint's log", ExitStatus.INTERNAL)
            )
            return
        finally:
            self._starting = None
        for task in list(self._tasks.values()):
            if task.task_id not in self._lost_ones:
                self._send(task)

    def _try_again(self, task: TaskRequest, reason: str, code: str = WORKER_LOST) -> None:
        del self._tasks[task.task_id]
        again = self.try_again(task, reason, code)
        if again is None:
            self._starts.forget(task.task_id)
        elif not self.paused:
            self.submit(again)
        self._note_busy()

    def _finish(self, task: TaskRequest, code: str, text: str) -> None:
        self._forget(task)
        self.fail(task, code, text)
        self._note_busy()

    def _forget(self, task: TaskRequest) -> None:
        del self._tasks[task.task_id]
        self._starts.forget(task.task_id)


def _find_parsl_on_path() -> None:
    """Let blocks on this machine find Parsl's programs; a worker_init's environment has priority.

    A packaged endpoint's private environment is not on its users' PATH.
    """
    programs = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if programs not in path.split(os.pathsep):
        os.environ["PATH"] = f"{path}{os.pathsep}{programs}"


def _defect(error: BaseException) -> str:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).strip()
    if isinstance(error, ModuleNotFoundError):
        return (
            f"The worker environment lacks the module {error.name}: install globus-compute-sdk"
            f" there, or choose another environment in worker_init.\n{text}"
        )
    return f"The worker could not run the task.\n{text}"
