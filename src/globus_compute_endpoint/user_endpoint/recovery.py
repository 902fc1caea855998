# SPDX-License-Identifier: Apache-2.0
"""What becomes of the tasks which an earlier life of a user endpoint has left in its journal."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

from globus_compute_endpoint.engines.attempts import lost_attempt, tell_attempts
from globus_compute_endpoint.user_endpoint.journal import Journal, OpenTask
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.worker import task as worker

__all__ = ["Interruption", "Recovered", "recover"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interruption:
    """How the life before ended.

    ``reason``: as far as its manager knows. ``begun``: ids of tasks which have left start marks;
    None where these cannot be read. ``max_retries``: how often a task is tried again.
    ``given_up``: its manager has told the services to fail all its tasks. That may have reached
    nobody, so each gets a result, which the services drop where they have one.
    """

    endpoint_id: str
    reason: str | None
    begun: Collection[str] | None
    max_retries: int
    given_up: bool = False


@dataclass(frozen=True)
class Recovered:
    """What is in the journal: tasks to be run and results to be published, and what is done.

    ``progress``: whether an attempt was counted as lost, which happens to no task for ever.
    """

    open_tasks: list[OpenTask]
    done: list[str]
    last_seq: int
    progress: bool = False


def recover(interruption: Interruption, journal: Journal) -> Recovered:
    """Decide about each task which was cut short, and write that down before anything else.

    What has not begun runs. What has begun runs again if its retries allow it, or has failed.
    """
    reason = journal.last_end() or interruption.reason or "its process ended unexpectedly"
    batch = Batch()
    if journal.are_marks_doubted():
        log.error("Workers could not mark every start: what waited may have begun")
        interruption = replace(interruption, begun=None)
    tasks = [_decide(task, interruption, reason, batch) for task in journal.open_tasks()]
    journal.write(batch)
    journal.begin_life()
    if tasks:
        finished = sum(task.state is State.FINISHED for task in tasks)
        log.warning(
            "%d tasks are in the journal: %d are to be run, %d results to be published (%s)",
            len(tasks),
            len(tasks) - finished,
            finished,
            reason,
        )
    return Recovered(tasks, journal.done(), journal.last_seq(), progress=bool(batch))


def _decide(task: OpenTask, interruption: Interruption, reason: str, batch: Batch) -> OpenTask:
    if task.state is State.FINISHED:
        return task
    if interruption.given_up:
        return _finish(task, _given_up(task, interruption.endpoint_id), batch)
    if not _has_begun(task, interruption.begun):
        return task
    history = (*task.history, lost_attempt(reason))
    if len(history) <= interruption.max_retries:
        batch.submit(task.seq, task.task_id, history)
        return replace(task, state=State.SUBMITTED, history=history)
    log.warning(
        "Task %s has failed: it had begun when the user endpoint ended (%s)",
        task.task_id,
        reason,
        extra={"GC_TASK_ID": task.task_id},
    )
    return _finish(task, _interrupted(task, interruption.endpoint_id, history), batch)


def _finish(task: OpenTask, result: bytes, batch: Batch) -> OpenTask:
    batch.finish(task.seq, task.task_id, result)
    return replace(task, state=State.FINISHED, size=len(result))


def _has_begun(task: OpenTask, begun: Collection[str] | None) -> bool:
    if begun is None:  # where it cannot be told, nothing is run twice
        return task.state in (State.SUBMITTED, State.STARTED)
    return task.state is State.STARTED or task.task_id in begun


def _interrupted(task: OpenTask, endpoint_id: str, history: tuple[str, ...]) -> bytes:
    text = (
        f"TaskInterrupted: it had begun when its user endpoint ended: {tell_attempts(history)}\n"
        "It is not known how far it came. Submit it again; where that does no harm, the endpoint's"
        " max_retries_on_system_failure has it done without asking."
    )
    context = {"endpoint_id": endpoint_id, "received": task.received}
    return worker.failure(task.task_id, "TaskInterrupted", text, context)


def _given_up(task: OpenTask, endpoint_id: str) -> bytes:
    text = (
        "The user endpoint which had taken this task ended, and could not be started again."
        " Submit the task again."
    )
    context = {"endpoint_id": endpoint_id, "received": task.received}
    return worker.failure(task.task_id, "UserEndpointGivenUp", text, context)
