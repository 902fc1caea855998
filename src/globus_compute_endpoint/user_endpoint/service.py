# SPDX-License-Identifier: Apache-2.0
"""The user endpoint as a whole: its parts, its life and its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from globus_compute_endpoint.amqp import Connection, Consumer, Delivery, Publisher
from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.amqp.renewal import Renewal
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.engines.base import Engine, EngineContext, TaskRequest
from globus_compute_endpoint.host.forks import default_in_forks
from globus_compute_endpoint.host.paths import JOURNAL_FILE
from globus_compute_endpoint.overview import Overview, answering_status
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint import intake
from globus_compute_endpoint.user_endpoint.books import Books
from globus_compute_endpoint.user_endpoint.control import (
    Control,
    Credentials,
    Drain,
    Stop,
)
from globus_compute_endpoint.user_endpoint.heartbeat import Heartbeat, IdleWatch
from globus_compute_endpoint.user_endpoint.journal_files import unusable
from globus_compute_endpoint.user_endpoint.ledger import Ledger, Neighbours
from globus_compute_endpoint.user_endpoint.links import Links
from globus_compute_endpoint.user_endpoint.reporting import Reporting
from globus_compute_endpoint.user_endpoint.results import ResultPublisher
from globus_compute_endpoint.worker import task as worker

__all__ = ["NO_HOOKS", "STOP_SIGNALS", "Hooks", "Settings", "UserEndpoint"]

log = logging.getLogger(__name__)

# SIGHUP: the terminal of an attached endpoint was closed.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)

_MIN_WINDOW, _MAX_WINDOW = 128, 4096  # tasks which the engine has at a time
_PREFETCH = 256  # messages on their way into the journal
_FLUSH_TIMEOUT = 10.0  # seconds for results which are done, at a stop
_FAREWELL_TIMEOUT = 3.0


@dataclass(frozen=True)
class Settings:
    """What a user endpoint is.

    ``state_directory`` is where its journal is, and ``interruption`` why its last life ended, as
    far as its manager knows.
    """

    endpoint_id: str
    name: str
    directory: Path
    queues: UserEndpointQueues
    config: UserEndpointConfig
    process_title: str
    state_directory: Path
    ca_certificates: str | None = None  # of the manager, beside what the configuration names
    interruption: str | None = None
    given_up: bool = False


@dataclass(frozen=True)
class Hooks:
    """What whoever runs a user endpoint wants to hear, or knows better.

    ``ready``: tasks are taken, and results can be published. ``running``: a script of the user's
    runs (None: it is done). ``is_ours``: no other instance has taken the endpoint over.
    ``renew`` gets fresh credentials, or raises Problem where there are none to be had; None: a
    manager sends them. ``status_address``: where ``status`` asks it, without a manager.
    """

    ready: Callable[[], None] = lambda: None
    running: Callable[[str | None], None] = lambda _: None
    is_ours: Callable[[], bool] = lambda: True
    renew: Callable[[], Awaitable[UserEndpointQueues]] | None = None
    status_address: str | None = None


NO_HOOKS = Hooks()


class UserEndpoint:
    """One user endpoint, from its first connection to its end.

    A task passes: consumer → intake → ledger → engine → ledger → result publisher → ledger.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        books: Books,
        control: Control,
        hooks: Hooks,
    ) -> None:
        self._settings = settings
        self._hooks = hooks
        self._engine = engine
        self._books = books
        self._control = control
        self._movements = 0
        self._problem: Problem | None = None
        self._damage = False  # of the journal
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._end = "it ended"
        self._renewal = Renewal(self._renew)
        queues = settings.queues
        self._consumer = Consumer(
            queues.task_queue_info.queue,
            self._received,
            prefetch=_PREFETCH,
            on_consuming=self._consuming,
        )
        self._result_channel = Publisher(queues.result_queue_info.queue_publish_kwargs)
        self._heartbeat_channel = Publisher(queues.heartbeat_queue_info.queue_publish_kwargs)
        self._results = ResultPublisher(settings.endpoint_id, self._result_channel, self._confirmed)
        self._ledger = self._open_ledger()
        self._reporting = Reporting(engine, self._ledger)
        self._heartbeat = self._heartbeat_of(self._reporting)
        self._idle = IdleWatch(
            settings.config.idle_heartbeats_soft, settings.config.idle_heartbeats_hard
        )
        self._links = Links(queues, self._connect, self._note_ready)
        self._links.tasks.add(self._consumer)
        self._links.results.add(self._result_channel)
        self._links.heartbeats.add(self._heartbeat_channel)

    def _open_ledger(self) -> Ledger:
        ledger = Ledger(
            self._books.thread,
            self._settings.config.journal,
            min(max(2 * self._engine.slots, _MIN_WINDOW), _MAX_WINDOW),
            Neighbours(self._engine.submit, self._results.publish, self._take_more, self._damaged),
        )
        ledger.restore(self._books.recovered)
        return ledger

    def _heartbeat_of(self, reporting: Reporting) -> Heartbeat:
        return Heartbeat(
            self._settings.endpoint_id,
            self._settings.config.heartbeat_period,
            self._heartbeat_channel,
            reporting.global_state,
            on_beat=self._beat,
            on_taken=reporting.note_heartbeat,
        )

    async def run(self) -> None:
        """Serve until told to stop, idle, or broken.

        Raises:
            Problem: the engine cannot be started, or has failed.
        """
        try:
            with answering_status(self._hooks.status_address, self._overview):
                await self._serve()
        finally:
            await self._books.close(
                left=self._ledger.outstanding,
                written=self._ledger.is_written,
                in_order=self._links.tasks.closed_in_order,
                reason=self._end,
                again=self._damage,
            )
        if self._problem is not None:
            raise self._problem

    async def _serve(self) -> None:
        self._control.start(self._handle, self._reporting.report)
        self._control.tell("starting", self._ledger.outstanding)
        if self._books.recovered.progress:
            self._control.note_progress()
        self._listen_to_signals()
        await self._engine.start(self._engine_context())
        self._ledger.release()
        async with asyncio.TaskGroup() as group:
            connections = self._links.all()
            background = [group.create_task(each.run()) for each in connections]
            helping = [
                group.create_task(self._heartbeat.run()),
                group.create_task(self._renewal.run()),
            ]
            try:
                await self._until_the_end()
            finally:
                for task in helping:
                    task.cancel()
                await self._shut_down()
                await asyncio.gather(*(each.close() for each in connections))
                await asyncio.wait(background, timeout=_FAREWELL_TIMEOUT)

    async def _overview(self) -> Overview:
        return Overview.of_one(self._settings.endpoint_id, self._control.report())

    def stop(self, reason: str) -> None:
        """End now; what is not done stays in the journal."""
        if not self._stopping.is_set():
            log.info("Stopping: %s", reason)
            self._end = f"it was stopped ({reason})"
        self._engine.abandon()
        self._stopping.set()

    def drain(self, reason: str) -> None:
        """Take and begin no more tasks, and end when those that have begun are done."""
        if not self._draining.is_set():
            log.info("Finishing up: %s", reason)
            self._end = f"it was stopped ({reason})"
        self._draining.set()
        self._consumer.cancel()
        self._ledger.hold()
        self._engine.pause()
        self._control.tell("draining", self._ledger.outstanding)

    async def _until_the_end(self) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        drained = asyncio.create_task(self._drained())
        await asyncio.wait([stopping, drained], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        drained.cancel()

    async def _drained(self) -> None:
        await self._draining.wait()
        await self._engine.quiet()

    async def _shut_down(self) -> None:
        self._consumer.cancel()
        self._ledger.hold()
        await self._engine.stop()
        await self._flush()
        await self._heartbeat.farewell(_FAREWELL_TIMEOUT)

    async def _flush(self) -> None:
        """Have results published, and written what came of that; or leave it to the next life."""
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                await self._ledger.flush()
                await self._results.flush()
                await self._ledger.flush()
        except TimeoutError:
            log.warning("%d results could not be published yet", self._results.outstanding)

    def _take_more(self, more: bool) -> None:
        (self._consumer.resume if more else self._consumer.pause)()

    def _received(self, delivery: Delivery) -> None:
        self._movements += 1
        task = intake.read(delivery, self._settings.config.allowed_functions)
        if isinstance(task, intake.NotATask):
            self._refuse(task, delivery)
        elif self._ledger.admit(task, delivery):
            log.info("Task %s received", task.task_id, extra={"GC_TASK_ID": task.task_id})

    def _refuse(self, message: intake.NotATask, delivery: Delivery) -> None:
        if message.task_id is None:
            log.error(
                "A message of %d bytes on the task queue is not a task, and is dropped: %s",
                len(delivery.body),
                message.reason,
            )
            delivery.reject(requeue=False)
            return
        log.error(
            "Task %s cannot be run: %s",
            message.task_id,
            message.reason,
            extra={"GC_TASK_ID": message.task_id},
        )
        text = (
            f"The endpoint cannot run this task: {message.reason}. Submit it again, with a"
            " globus-compute-sdk of a version that fits the endpoint's."
        )
        context = {"endpoint_id": self._settings.endpoint_id}
        packed = worker.failure(message.task_id, "MalformedTask", text, context)
        task = TaskRequest(message.task_id, b"", time.time_ns())
        self._ledger.admit(task, delivery, packed)

    def _started(self, task_id: str) -> None:
        self._ledger.started(task_id)
        self._heartbeat.note_start(task_id)

    def _finished(self, task_id: str, packed: bytes) -> None:
        self._heartbeat.note_end(task_id)
        self._movements += 1
        log.info(
            "Task %s finished; its result has %d bytes",
            task_id,
            len(packed),
            extra={"GC_TASK_ID": task_id},
        )
        self._books.unmarked.heed(packed)  # first: it is of the task's own life
        self._ledger.store(task_id, packed)

    def _confirmed(self, task_id: str) -> None:
        log.info("Task %s is done: result confirmed", task_id, extra={"GC_TASK_ID": task_id})
        self._ledger.settle(task_id)
        self._reporting.note_done()
        self._control.note_progress()

    def _consuming(self) -> None:
        log.info("Taking tasks from %s", self._consumer.queue)
        self._control.tell("running", self._ledger.outstanding)
        self._note_ready()

    def _note_ready(self) -> None:
        if self._consumer.ready and self._links.results.is_up:
            self._hooks.ready()

    def _beat(self) -> None:
        outstanding = self._ledger.outstanding
        self._control.refresh(outstanding)
        if reason := self._idle.beat(outstanding, self._movements):
            self.stop(reason)
        elif not self._hooks.is_ours():
            self.stop("another instance has taken this endpoint over")

    def _failed(self, problem: Problem) -> None:
        log.error("Cannot go on: %s", problem)
        self._problem = problem
        # What the engine has given up was answered with errors: these should arrive.
        self.drain(problem.message)

    def _damaged(self, error: Exception) -> None:
        """The next life of this endpoint carries over what can be read of the journal."""
        self._damage = True
        self._failed(unusable(self._settings.state_directory / JOURNAL_FILE, error))

    def _handle(self, frame: Credentials | Drain | Stop) -> None:
        if isinstance(frame, Drain):
            self.drain("the manager asks for it")
        elif isinstance(frame, Stop):
            self.stop("the manager asks for it")
        elif str(frame.amqp_creds.endpoint_id) != self._settings.endpoint_id:
            log.warning("Credentials of another endpoint have come, and are not used")
        else:
            self._use(frame.amqp_creds)

    async def _renew(self) -> None:
        """Get fresh credentials, where that is up to us; end where the services refuse."""
        if not self._hooks.is_ours():
            self.stop("another instance has taken this endpoint over")
        elif self._hooks.renew is None:
            log.error(
                "The broker refuses our credentials, or still counts on a connection of ours which"
                " is no more; we try again, and take what a start command brings"
            )
        else:
            try:
                self._use(await self._hooks.renew())
            except Problem as problem:
                log.error("There are no fresh credentials: %s", problem)
                if problem.exit_status != ExitStatus.TEMPORARY:
                    self._problem = problem
                    self.stop(problem.message)

    def _use(self, queues: UserEndpointQueues) -> None:
        self._result_channel.redirect(queues.result_queue_info.queue_publish_kwargs)
        self._heartbeat_channel.redirect(queues.heartbeat_queue_info.queue_publish_kwargs)
        self._links.use(queues)
        self._renewal.forget()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop, f"{signal.Signals(number).name} received")
        default_in_forks(STOP_SIGNALS)  # a task in a thread may fork, and signal what it forked

    def _connect(
        self, purpose: str, url: SecretStr, on_up: Callable[[], None] | None = None
    ) -> Connection:
        return Connection(
            url,
            name=f"{self._settings.name} {purpose}",
            port=self._settings.config.amqp_port,
            ca_file=self._settings.config.services.ca_file,
            ca_certificates=self._settings.ca_certificates,
            on_up=on_up,
            on_down=self._renewal.judge,
        )

    def _engine_context(self) -> EngineContext:
        settings = self._settings
        return EngineContext(
            endpoint_id=settings.endpoint_id,
            directory=settings.directory,
            deliver=self._finished,
            failed=self._failed,
            process_title=f"{settings.process_title} worker",
            started=self._started,
            lost=self._ledger.lost,
            marks=self._books.marks,
            jobs=self._books.jobs,
        )
