# SPDX-License-Identifier: Apache-2.0
"""One life of a HighThroughputExecutor, guarded against what Parsl does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import zmq
from parsl.jobs.states import TERMINAL_STATES
from parsl.jobs.strategy import Strategy

from globus_compute_endpoint.engines.base import JobLog
from globus_compute_endpoint.engines.batch_jobs import JobGate, runs_batch_jobs
from globus_compute_endpoint.engines.block_figures import BlockFigures
from globus_compute_endpoint.engines.block_watch import BlockWatch
from globus_compute_endpoint.engines.containers import Containers
from globus_compute_endpoint.engines.failed_blocks import why_hopeless
from globus_compute_endpoint.engines.interchange import KEEP_TASKS
from globus_compute_endpoint.engines.interchange_start import heed_early_end
from globus_compute_endpoint.engines.losses import Loss
from globus_compute_endpoint.engines.marks import Place
from globus_compute_endpoint.engines.providers import PromptLocalProvider
from globus_compute_endpoint.engines.scale_in import scale_in
from globus_compute_endpoint.figures import EngineFigures
from globus_compute_endpoint.host.patience import in_thread

__all__ = ["ExecutorLife"]

log = logging.getLogger(__name__)

_MARK = "GLOBUS_COMPUTE_ENGINE_RUN"
_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 15.0
_SOON = 1.0
_COMMAND_TIMEOUT = 10.0  # for a question to the interchange
_SEND_TIMEOUT_MS = 1000  # a send blocks only where there is no interchange
_LOOK_TIMEOUT = 20.0  # a task that was lost is answered then, whatever the scheduler does
_FAILING_PAUSE = 60.0  # between new blocks, where the last few have failed and others work


class ExecutorLife:
    """An executor from its start to its end.

    ``on_look`` is awaited after each look at its blocks. ``on_death`` is called once if it ends
    by itself, with the reason and whether that can be helped by another life.
    """

    def __init__(
        self,
        executor: Any,  # a HighThroughputExecutor; much of it is None before its start
        *,
        directory: Path,
        strategy: str,
        max_idletime: float,
        period: float,
        jobs: JobLog,
        job_name: str,
        containers: Containers | None,
        on_look: Callable[[], Awaitable[None]],
        on_death: Callable[[ExecutorLife, str, bool], None],
    ) -> None:
        self.executor = executor
        self._run = str(uuid4())
        self._directory = directory / self._run[:8]
        self._period = period
        self._jobs = jobs
        self._job_name = job_name
        self._containers = containers
        self._gate: JobGate | None = None
        self._on_look = on_look
        self._on_death = on_death
        self._paused = False
        #: How many tasks its workers have, as counted in a pause.
        self.held: int | None = None
        self._strategy = Strategy(strategy=strategy, max_idletime=max_idletime)
        self._watch = BlockWatch(executor)
        self._figures = BlockFigures()
        self._wake = asyncio.Event()
        self._look_wanted: list[asyncio.Future[None]] = []
        self._scaling: asyncio.Task[None] | None = None
        self._no_more_before = 0.0  # more blocks
        self._looking = threading.Lock()  # a look may outlive the patience with it
        self._pidfd: int | None = None
        self._over = False

    async def start(self) -> None:
        """Start the interchange, and ask for the first blocks.

        Raises:
            Exception: Parsl could not; TimeoutError: not in time.
        """
        executor = self.executor
        scripts = self._directory / "submit_scripts"
        await in_thread(partial(scripts.mkdir, parents=True), _START_TIMEOUT)
        executor.run_dir = str(self._directory)
        executor.run_id = self._run
        executor.provider.script_dir = str(scripts)
        executor.scale_in = partial(scale_in, executor)
        executor._launch_block = partial(self._launch, executor._launch_block)
        if runs_batch_jobs(executor.provider):
            self._gate = JobGate(executor.provider, self._jobs, scripts, self._job_name)
        if self._containers is not None:
            enter = partial(self._containers.enter, executor, self._directory)
            await in_thread(enter, _START_TIMEOUT)
        heed_early_end(executor)
        os.environ[_MARK] = self._run  # what the engine starts inherits it: see _stragglers
        await in_thread(executor.start, _START_TIMEOUT)
        executor.outgoing_q.zmq_socket.setsockopt(zmq.SNDTIMEO, _SEND_TIMEOUT_MS)
        commands = executor.command_client
        commands.run = partial(commands.run, timeout_s=_COMMAND_TIMEOUT)
        self._pidfd = os.pidfd_open(executor.interchange_proc.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._interchange_ended)
        self._strategy.add_executors([executor])
        self._scaling = asyncio.create_task(self._scale(), name="htex scaling")
        self._scaling.add_done_callback(self._scaling_ended)

    def submit(self, context: dict[str, Any], buffer: bytes) -> Future[bytes]:
        """Submit a payload.

        Raises:
            Exception: the executor is in a bad state, or the interchange away.
        """
        future: Future[bytes] = self.executor.submit_payload(context, buffer)
        if not self._active_blocks():
            self._wake.set()  # not at the next tick: someone is waiting
        return future

    def pause(self) -> None:
        """Have the interchange keep what it has not given to workers, and count the rest."""
        self._paused = True
        self._wake.set()

    def look(self) -> None:
        """Look after the blocks, or count tasks in a pause, soon."""
        self._wake.set()

    async def explain(self, losses: dict[str, tuple[Loss, Place]]) -> dict[str, str]:
        """Return why each task was lost, with what is known of the block where it ran.

        Raises:
            TimeoutError: the file system with the blocks' output does not answer.
        """
        lost = {place.block for loss, place in losses.values() if loss.with_block}
        blocks = {block for block in lost if block is not None}
        if not all(map(self._watch.knows_end, blocks)):
            looked = asyncio.get_running_loop().create_future()
            self._look_wanted.append(looked)
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(looked, _LOOK_TIMEOUT)
        return await in_thread(partial(self._explain, losses), _LOOK_TIMEOUT)

    def status(self, engine: str, tasks: int) -> EngineFigures:
        """Return figures as of the last look, for an engine with so many tasks."""
        return self._figures.tell(self.executor, engine, tasks)

    async def stop(self, *, given_up: bool = False) -> None:
        """Cancel all blocks, end the interchange, and leave no process behind.

        ``given_up``: the interchange is of no use any more, and another may want its port.
        """
        self._over = True
        if given_up:
            self.executor.interchange_proc.kill()
        if self._scaling is not None:
            self._scaling.cancel()
        self._forget_interchange()
        executor = self.executor
        # Without this the result thread may wait for an interchange which is away.
        executor._executor_bad_state.set()
        shutdown = partial(executor.shutdown, timeout=3)
        steps: list[Callable[[], object]] = [self._await_look, self._cancel_blocks]
        if self._containers is not None:
            steps += [self._await_containers]
        steps += [shutdown, self._kill_stragglers]
        if self._containers is not None:
            steps += [self._containers.remove]
        for what in steps:
            try:
                await in_thread(what, _STOP_TIMEOUT)
            except Exception:  # the next step, and the last, mend what this one left
                log.warning("Stopping the executor: a step has failed", exc_info=True)

    def _explain(self, losses: dict[str, tuple[Loss, Place]]) -> dict[str, str]:
        told: dict[tuple[Loss, Place], str] = {}  # one for all tasks of a block
        for loss, place in set(losses.values()):
            is_of_interest = loss.with_block or runs_batch_jobs(self.executor.provider)
            report = self._watch.tell(place) if is_of_interest else None
            told[loss, place] = report.explain(loss) if report else loss.reason
        return {task_id: told[each] for task_id, each in losses.items()}

    async def _scale(self) -> None:
        while True:
            wanted, self._look_wanted = self._look_wanted, []
            try:
                await in_thread(partial(self._look, at_once=bool(wanted)), 4 * _START_TIMEOUT)
            except Exception:  # a scheduler may be away for hours, and come back
                log.warning("Looking after the blocks has failed", exc_info=True)
            for each in wanted:
                if not each.done():
                    each.set_result(None)
            if not self.executor.command_client.ok:  # and never will be, with Parsl
                self._die("Parsl's interchange process does not answer.", can_be_helped=True)
                return
            if reason := await self._hopeless():
                if not self._figures.has_pools:
                    self._die(reason, can_be_helped=False)
                    return
                self._make_do(reason)
            await self._on_look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause())
            self._wake.clear()

    def _scaling_ended(self, scaling: asyncio.Task[None]) -> None:
        """Without anyone to look after blocks, tasks would wait for ever."""
        if not scaling.cancelled() and (error := scaling.exception()) is not None:
            log.error("Nobody looks after the blocks any more", exc_info=error)
            self._die(f"The endpoint cannot look after its blocks: {error!r}", can_be_helped=True)

    def _pause(self) -> float:
        """Return how long until the next look: soon where a block on this machine may fail."""
        if self._watch.awaits_workers and not runs_batch_jobs(self.executor.provider):
            return min(self._period, _SOON)
        return self._period

    def _make_do(self, reason: str) -> None:
        """Go on with the blocks that work; others are hardly asked for."""
        if time.monotonic() >= self._no_more_before:
            self._no_more_before = time.monotonic() + _FAILING_PAUSE
            pause = f"{_FAILING_PAUSE:.0f} s"
            log.error("More blocks are asked for each %s only, as they fail: %s", pause, reason)

    def _look(self, *, at_once: bool) -> None:
        if not self._looking.acquire(blocking=False):
            raise BlockingIOError(errno.EAGAIN, "the last look still goes on")
        try:
            self._watch.look(at_once=at_once)
            if self._paused:
                self._hold_tasks()
                return
            if time.monotonic() >= self._no_more_before:
                self._strategy.strategize([self.executor])
            if self._gate is not None:
                self._gate.ended(self._ended_jobs())
            self._figures.look(self.executor)
        finally:
            self._looking.release()

    def _launch(self, launch: Callable[[str], Any], block: str) -> Any:
        """Start a block, unless the executor is given up: nobody would cancel it any more."""
        if not self._over:
            job = launch(block)
            if not self._over:
                return job
            self._cancel([job])
        raise RuntimeError("the executor is being stopped")

    def _hold_tasks(self) -> None:
        executor = self.executor
        executor.command_client.run(KEEP_TASKS)
        managers = executor.connected_managers()
        while active := [each for each in managers if each["active"]]:
            for each in active:
                executor._hold_manager(each["manager"])
            managers = executor.connected_managers()
        self.held = sum(each["tasks"] for each in managers)

    def _ended_jobs(self) -> list[Any]:
        states = self.executor.status_facade
        return [
            job
            for block, job in self.executor.blocks_to_job_id.items()
            if block in states and states[block].state in TERMINAL_STATES
        ]

    def _active_blocks(self) -> int:
        states = self.executor.status_facade.values()
        return sum(each.state not in TERMINAL_STATES for each in states)

    async def _hopeless(self) -> str | None:
        states = dict(self.executor.status_facade)
        contained = self._containers is not None
        why = partial(why_hopeless, states, self._watch, in_containers=contained)
        try:
            return await in_thread(why, _LOOK_TIMEOUT)
        except TimeoutError:
            log.warning("The output of blocks which have failed cannot be read now")
            return None

    def _interchange_ended(self) -> None:
        self._forget_interchange()
        status = self.executor.interchange_proc.poll()
        reason = f"Parsl's interchange process has ended (exit status {status})."
        self._die(reason, can_be_helped=True)

    def _die(self, reason: str, *, can_be_helped: bool) -> None:
        if self._over:
            return
        self._over = True
        log.error("The executor is lost: %s", reason)
        self._on_death(self, reason, can_be_helped)

    def _forget_interchange(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _await_look(self) -> None:
        """Wait for the one which goes on: it may be about to start a block. There is none after."""
        self._looking.acquire(timeout=_STOP_TIMEOUT / 3)

    def _cancel_blocks(self) -> None:
        # Not by scale_in, which asks the interchange, and may wait for it.
        executor = self.executor
        ended = self._ended_jobs()
        self._cancel([job for job in executor.blocks_to_job_id.values() if job not in ended])
        if self._gate is not None:
            self._gate.ended(ended)

    def _cancel(self, jobs: list[Any]) -> None:
        cancelled = self.executor.provider.cancel(jobs) if jobs else []
        if self._gate is not None:
            self._gate.ended([job for job, is_gone in zip(jobs, cancelled, strict=True) if is_gone])

    def _await_containers(self) -> None:
        """Give the blocks on this machine the time to end their containers in order."""
        provider = self.executor.provider
        groups = provider.groups if isinstance(provider, PromptLocalProvider) else set()
        psutil.wait_procs(list(_members(groups)), timeout=_STOP_TIMEOUT / 2)

    def _kill_stragglers(self) -> None:
        """Kill what the blocks on this machine have left: by group, or by our mark."""
        provider = self.executor.provider
        groups = provider.groups if isinstance(provider, PromptLocalProvider) else set()
        killed = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                pid = process.pid
                ours = _is_member(pid, groups)
                if pid != os.getpid() and (ours or process.environ().get(_MARK) == self._run):
                    process.kill()
                    killed.append(process)
        psutil.wait_procs(killed, timeout=_STOP_TIMEOUT / 3)


def _members(groups: set[int]) -> Iterator[psutil.Process]:
    return (each for each in psutil.process_iter() if _is_member(each.pid, groups))


def _is_member(pid: int, groups: set[int]) -> bool:
    # The number of a group may have come round; not so in our session.
    try:
        return os.getpgid(pid) in groups and os.getsid(pid) == os.getsid(0)
    except ProcessLookupError:
        return False
