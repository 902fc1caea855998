# SPDX-License-Identifier: Apache-2.0
"""Asking for tasks, groups of tasks, and the way to their results."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Result
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import (
    caller_of,
    parsed_body,
    parts_of,
    read_body,
    uuid_in_path,
)
from globus_compute_services.api.errors import forbidden, not_found
from globus_compute_services.api.models import BatchStatusRequest
from globus_compute_services.broker import names
from globus_compute_services.relay.dispatch import result_queue_arguments
from globus_compute_services.store.identities import Caller
from globus_compute_services.store.schema import BrokerAccount, Task, TaskGroup
from globus_compute_services.store.tasks import tasks_by_id

__all__ = ["batch_status", "find_group", "result_connection", "show_group", "show_task"]


class _PlainJson(JSONResponse):
    """JSON of what endpoints wrote, which need not be strict."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


async def find_group(session: AsyncSession, caller: Caller, group_id: UUID) -> TaskGroup:
    """Raises ApiError 404 if there is none, 403 if it is someone else's."""
    group = await session.get(TaskGroup, group_id)
    if group is None:
        raise not_found(
            "TASK_GROUP_NOT_FOUND",
            f"There is no task group {group_id}; leave task_group_id out to begin one",
        )
    if group.identity_id != caller.identity.id:
        raise forbidden(f"Task group {group_id} belongs to someone else")
    return group


async def show_task(request: Request) -> Response:
    """``GET /v2/tasks/{id}``."""
    caller = await caller_of(request)
    task_id = uuid_in_path(request, "task_id")
    async with parts_of(request).database.read() as session:
        task = await session.get(Task, task_id)
    if task is None:
        raise not_found("TASK_NOT_FOUND", f"There is no task {task_id}")
    if task.identity_id not in caller.linked:
        raise forbidden(f"Task {task_id} belongs to someone else")
    return _PlainJson(_document(task))


async def batch_status(request: Request) -> Response:
    """``POST /v2/batch_status``; tasks that are unknown, or someone else's, are left out."""
    caller = await caller_of(request)
    asked = await parsed_body(BatchStatusRequest, await read_body(request))
    async with parts_of(request).database.read() as session:
        tasks = await tasks_by_id(session, asked.task_ids)
    results = {str(task.id): _document(task) for task in tasks if task.identity_id in caller.linked}
    return _PlainJson({"response": "batch", "results": results})


async def show_group(request: Request) -> Response:
    """``GET /v2/taskgroup/{id}``; from now on its results also come to its queue."""
    parts = parts_of(request)
    caller = await caller_of(request)
    group_id = uuid_in_path(request, "group_id")
    async with parts.database.read() as session:
        group = await find_group(session, caller, group_id)
    queue = names.result_queue(group.identity_id, group.id)
    await parts.link.declare_queue(queue, result_queue_arguments(parts.settings.retention_days))
    # The tasks are read in the transaction from which on results go to the queue: what is
    # completed before it is seen by the client's next request, what is completed later is sent.
    async with parts.database.write() as session:
        (await session.get_one(TaskGroup, group_id)).has_queue = True
        tasks = await session.execute(
            select(Task.id, Task.created).where(Task.group_id == group_id).order_by(Task.created)
        )
        listed = [{"id": str(row.id), "created_at": _iso(row.created)} for row in tasks]
    return JSONResponse(
        {"taskgroup_id": str(group_id), "create_websockets_queue": True, "tasks": listed}
    )


async def result_connection(request: Request) -> Response:
    """``GET /v2/get_amqp_result_connection_url``."""
    parts = parts_of(request)
    caller = await caller_of(request)
    identity = caller.identity.id
    account, url, expires = await parts.accounts.result_account(identity)
    async with parts.database.write() as session:
        await session.merge(BrokerAccount(name=account, identity_id=identity, expires=expires))
    return JSONResponse(
        {"queue_prefix": names.result_queue_prefix(identity), "connection_url": url}
    )


def _document(task: Task) -> dict[str, Any]:
    document: dict[str, Any] = {"task_id": str(task.id), "status": task.status}
    if task.result is None:
        return document
    result = messagepack.unpack(task.result)
    assert isinstance(result, Result)
    details = dict(result.details or {})
    details["task_transitions"] = {
        transition.state.value: transition.timestamp / 1e9
        for transition in result.task_statuses or ()
    }
    document["exception" if result.is_error else "result"] = result.data
    return document | {"completion_t": str(task.completed), "details": details}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
