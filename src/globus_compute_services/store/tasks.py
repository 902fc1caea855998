# SPDX-License-Identifier: Apache-2.0
"""Tasks: recorded with the message that carries them, completed once."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Result, ResultErrorDetails
from globus_compute_common.messagepack.message_types import Task as TaskMessage
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.broker import names
from globus_compute_services.store.schema import (
    Endpoint,
    Function,
    Outbox,
    OutboxKind,
    Task,
    TaskGroup,
)

__all__ = [
    "Completion",
    "Order",
    "complete_tasks",
    "fail_outstanding",
    "note_progress",
    "record_tasks",
    "reset_queue",
    "task_body",
    "tasks_by_id",
]


@dataclass(frozen=True)
class Order:
    """What a submit asks for one function: a task for each of the payloads."""

    function: Function
    payloads: Sequence[str]


@dataclass(frozen=True)
class Completion:
    """A packed Result, and the endpoint that published it."""

    task_id: UUID
    endpoint_id: UUID
    failed: bool
    body: bytes


def task_body(task_id: UUID, function: Function, payload: str) -> bytes:
    """The packed Task message: the function's buffer and then the arguments' two."""
    code = function.code
    if not function.serialized:
        part = f"st\n{function.name}:{code}"
        code = f"{len(part)}\n{part}"
    return messagepack.pack(TaskMessage(task_id=task_id, task_buffer=code + payload))


async def record_tasks(
    session: AsyncSession,
    orders: Sequence[Order],
    *,
    group: TaskGroup,
    endpoint: UUID,
    target: Endpoint,
    headers: dict[str, Any],
) -> dict[str, list[str]]:
    """Record new tasks together with their messages; returns their ids by function."""
    now = time.time()
    queue = names.task_queue(target.id)
    tasks: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    answer: dict[str, list[str]] = {}
    for order in orders:
        for payload in order.payloads:
            task_id = uuid4()
            answer.setdefault(str(order.function.id), []).append(str(task_id))
            tasks.append(
                {
                    "id": task_id,
                    "group_id": group.id,
                    "identity_id": group.identity_id,
                    "endpoint_id": endpoint,
                    "target_id": target.id,
                    "function_id": order.function.id,
                    "status": "waiting-for-ep",
                    "created": now,
                }
            )
            own = {"function_uuid": str(order.function.id), "task_uuid": str(task_id)}
            body = task_body(task_id, order.function, payload)
            messages.append(_outbox(OutboxKind.TASK, queue, task_id, headers | own, body))
    group.touched = now
    await session.flush()
    await session.execute(insert(Task), tasks)
    await session.execute(insert(Outbox), messages)
    return answer


async def complete_tasks(
    session: AsyncSession, completions: Sequence[Completion]
) -> tuple[list[UUID], list[UUID]]:
    """Store results and have them sent to the researchers.

    A result is taken only for an outstanding task of the endpoint that published it. Returns the
    ids of the tasks completed, and of those whose results were refused.
    """
    ids = [completion.task_id for completion in completions]
    rows = await session.execute(
        select(Task.id, Task.target_id, Task.completed, TaskGroup)
        .join(TaskGroup, TaskGroup.id == Task.group_id)
        .where(Task.id.in_(ids))
    )
    known = {row[0]: row for row in rows}
    taken: dict[UUID, Completion] = {}
    refused: list[UUID] = []
    for completion in completions:
        row = known.get(completion.task_id)
        if row is None or row[1] != completion.endpoint_id:
            refused.append(completion.task_id)
        elif row[2] is None:
            taken.setdefault(completion.task_id, completion)
    groups = {task_id: known[task_id][3] for task_id in taken}
    await _store(session, taken, groups)
    return list(taken), refused


async def fail_outstanding(session: AsyncSession, target: UUID, message: str) -> list[UUID]:
    """Fail all outstanding tasks of an endpoint; returns their ids."""
    rows = await session.execute(
        select(Task.id, TaskGroup)
        .join(TaskGroup, TaskGroup.id == Task.group_id)
        .where(Task.target_id == target, Task.completed.is_(None))
    )
    groups = {row[0]: row[1] for row in rows}
    failures = {
        task_id: Completion(task_id, target, True, error_body(task_id, message))
        for task_id in groups
    }
    queue = names.task_queue(target)
    await session.execute(
        delete(Outbox).where(Outbox.kind == OutboxKind.TASK, Outbox.queue == queue)
    )
    await _store(session, failures, groups)
    return list(failures)


def error_body(task_id: UUID, message: str) -> bytes:
    """A packed Result which makes the researcher's future fail with ``message``."""
    details = ResultErrorDetails(code="EndpointFailure", user_message=message)
    return messagepack.pack(Result(task_id=task_id, data=message, error_details=details))


async def reset_queue(session: AsyncSession, target: UUID) -> None:
    """Have an endpoint's task queue emptied.

    Tasks recorded after this transaction are not touched: their messages come later in the outbox.
    """
    reset = _outbox(OutboxKind.RESET, names.task_queue(target), None, {}, b"")
    await session.execute(insert(Outbox), [reset])


async def _store(
    session: AsyncSession, completions: dict[UUID, Completion], groups: dict[UUID, TaskGroup]
) -> None:
    if not completions:
        return
    now = time.time()
    await session.execute(
        update(Task),
        [
            {
                "id": task_id,
                "status": "failed" if completion.failed else "success",
                "completed": now,
                "result": completion.body,
            }
            for task_id, completion in completions.items()
        ],
    )
    messages = []
    for task_id, completion in completions.items():
        group = groups[task_id]
        group.touched = now
        if group.has_queue:
            queue = names.result_queue(group.identity_id, group.id)
            messages.append(_outbox(OutboxKind.RESULT, queue, task_id, {}, completion.body))
    if messages:
        await session.execute(insert(Outbox), messages)


def _outbox(
    kind: OutboxKind, queue: str, task_id: UUID | None, headers: dict[str, Any], body: bytes
) -> dict[str, Any]:
    return {
        "kind": kind,
        "queue": queue,
        "task_id": task_id,
        "headers": headers,
        "body": body,
        "size": len(body),
    }


async def note_progress(session: AsyncSession, target: UUID, states: dict[UUID, str]) -> None:
    """Note what an endpoint says about its tasks which it has not finished."""
    for task_id, status in states.items():
        await session.execute(
            update(Task)
            .where(Task.id == task_id, Task.target_id == target, Task.completed.is_(None))
            .values(status=status)
        )


async def tasks_by_id(session: AsyncSession, ids: Collection[UUID]) -> list[Task]:
    return list(await session.scalars(select(Task).where(Task.id.in_(ids))))
