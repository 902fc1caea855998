# SPDX-License-Identifier: Apache-2.0
"""Submitting tasks: recorded with their messages before the answer, and never twice by a repeat."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import Response

from globus_compute_services.api.answered import AnsweredResponse, Turns
from globus_compute_services.api.context import (
    Parts,
    caller_of,
    parsed_body,
    parts_of,
    read_body,
    uuid_in_path,
)
from globus_compute_services.api.endpoints import find_endpoint
from globus_compute_services.api.errors import forbidden, unprocessable
from globus_compute_services.api.functions import runnable_functions
from globus_compute_services.api.models import SubmitRequest, SubmitRequestV2
from globus_compute_services.api.tasks import find_group
from globus_compute_services.broker import names
from globus_compute_services.relay.dispatch import result_queue_arguments
from globus_compute_services.store.endpoints import find_user_endpoint
from globus_compute_services.store.identities import Caller
from globus_compute_services.store.schema import Endpoint, Kind, Submission, TaskGroup
from globus_compute_services.store.tasks import Order, record_tasks

__all__ = ["submit", "submit_v2"]

log = logging.getLogger(__name__)

_REPEAT_WINDOW_S = 600.0


async def submit(request: Request) -> Response:
    """``POST /v3/endpoints/{id}/submit``."""
    caller = await caller_of(request)
    endpoint_id = uuid_in_path(request, "endpoint_id")
    body = await read_body(request, parts_of(request).settings.max_request_bytes)
    asked = await parsed_body(SubmitRequest, body)
    return await _submitted(request, caller, endpoint_id, asked, body=body)


async def submit_v2(request: Request) -> Response:
    """``POST /v2/submit``: the form of older SDKs, with an answer of its own."""
    caller = await caller_of(request)
    body = await read_body(request, parts_of(request).settings.max_request_bytes)
    old = await parsed_body(SubmitRequestV2, body)
    if len(endpoints := {endpoint for _, endpoint, _ in old.tasks}) > 1:
        raise unprocessable("SEVERAL_ENDPOINTS", "tasks: all must be for the same endpoint")
    tasks: dict[UUID, list[str]] = {}
    for function, _, payload in old.tasks:
        tasks.setdefault(function, []).append(payload)
    asked = SubmitRequest(
        tasks=tasks, task_group_id=old.task_group_id, create_queue=old.create_websocket_queue
    )
    return await _submitted(request, caller, endpoints.pop(), asked, body=body, old=old)


async def _submitted(
    request: Request,
    caller: Caller,
    endpoint_id: UUID,
    asked: SubmitRequest,
    *,
    body: bytes,
    old: SubmitRequestV2 | None = None,
) -> Response:
    parts = parts_of(request)
    _check_sizes(asked, parts.settings.max_payload_bytes)
    fingerprint = _fingerprint(caller, endpoint_id, body)

    async def prepare() -> dict[str, Any]:
        submission = await _unanswered(parts, fingerprint)
        if submission is None:
            submission = await _record(parts, caller, endpoint_id, asked, fingerprint)
        answer = submission.answer
        await _set_going(parts, caller, answer, asked)
        return _v3_answer(answer) if old is None else _v2_answer(answer, old)

    async def forget() -> None:
        async with parts.database.write() as session:
            await session.execute(delete(Submission).where(Submission.fingerprint == fingerprint))

    turns: Turns = request.app.state.submit_turns
    return AnsweredResponse(turns, fingerprint, prepare, forget)


def _check_sizes(asked: SubmitRequest, limit: int) -> None:
    for function_id, payloads in asked.tasks.items():
        for payload in payloads:
            size = len(payload.encode())
            if size > limit:
                raise unprocessable(
                    "PAYLOAD_TOO_LARGE",
                    f"The arguments of a task of function {function_id} take {size} bytes; the "
                    f"limit is {limit} bytes ({limit / 2**20:g} MiB). Pass a path or URL of the "
                    "data instead",
                )


def _fingerprint(caller: Caller, endpoint_id: UUID, body: bytes) -> str:
    digest = hashlib.sha256(f"{caller.identity.id} {endpoint_id} ".encode())
    digest.update(body)
    return digest.hexdigest()


async def _unanswered(parts: Parts, fingerprint: str) -> Submission | None:
    """The same request, made before, whose answer its client cannot have read."""
    async with parts.database.read() as session:
        return await session.scalar(
            select(Submission).where(
                Submission.fingerprint == fingerprint,
                Submission.created > time.time() - _REPEAT_WINDOW_S,
            )
        )


async def _record(
    parts: Parts, caller: Caller, endpoint_id: UUID, asked: SubmitRequest, fingerprint: str
) -> Submission:
    """Check the request, and record its tasks, their messages and the answer in one go."""
    async with parts.database.write() as session:
        endpoint = await find_endpoint(session, endpoint_id)
        _check_endpoint(caller, endpoint, asked)
        functions = await runnable_functions(session, caller, endpoint, set(asked.tasks))
        group = await _group(session, caller, asked)
        target = await _target(session, caller, endpoint, asked)
        orders = [Order(functions[each], payloads) for each, payloads in asked.tasks.items()]
        tasks = await record_tasks(
            session,
            orders,
            group=group,
            endpoint=endpoint.id,
            target=target,
            headers=_headers(asked),
        )
        answer: dict[str, Any] = {
            "request_id": str(uuid4()),
            "task_group_id": str(group.id),
            "endpoint_id": str(endpoint.id),
            "tasks": tasks,
        }
        if target.kind == Kind.USER:
            answer["user_endpoint_id"] = str(target.id)
        submission = Submission(
            id=uuid4(), fingerprint=fingerprint, answer=answer, created=time.time()
        )
        session.add(submission)
    _log_tasks(tasks, caller, target)
    return submission


def _check_endpoint(caller: Caller, endpoint: Endpoint, asked: SubmitRequest) -> None:
    if endpoint.kind == Kind.USER:
        raise forbidden(
            f"Endpoint {endpoint.id} is a user endpoint; submit to its manager "
            f"{endpoint.manager_id}"
        )
    if endpoint.kind == Kind.MANAGER:
        return
    if endpoint.owner_id not in caller.linked:
        raise forbidden(
            f"Endpoint {endpoint.id} takes tasks of its owner only, not of "
            f"{caller.identity.username}"
        )
    if asked.user_endpoint_config:
        raise unprocessable(
            "NOT_CONFIGURABLE",
            f"user_endpoint_config: endpoint {endpoint.id} has no template to be configured with",
        )


async def _group(session: AsyncSession, caller: Caller, asked: SubmitRequest) -> TaskGroup:
    if asked.task_group_id is not None:
        group = await find_group(session, caller, asked.task_group_id)
        group.has_queue = group.has_queue or asked.create_queue
        return group
    now = time.time()
    group = TaskGroup(
        id=uuid4(),
        identity_id=caller.identity.id,
        has_queue=asked.create_queue,
        created=now,
        touched=now,
    )
    session.add(group)
    return group


async def _target(
    session: AsyncSession, caller: Caller, endpoint: Endpoint, asked: SubmitRequest
) -> Endpoint:
    """Whose task queue it is: the endpoint's own, or a user endpoint's."""
    if endpoint.kind != Kind.MANAGER:
        return endpoint
    config = asked.user_endpoint_config or {}
    return await find_user_endpoint(
        session, endpoint, caller.identity.id, config, asked.user_runtime
    )


def _headers(asked: SubmitRequest) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if asked.resource_specification is not None:
        headers["resource_specification"] = json.dumps(asked.resource_specification)
    if asked.result_serializers is not None:
        headers["result_serializers"] = asked.result_serializers
    return headers


async def _set_going(
    parts: Parts, caller: Caller, answer: Mapping[str, Any], asked: SubmitRequest
) -> None:
    """Have the tasks sent; the result queue is there before the client hears of its group."""
    parts.dispatcher.wake()
    if (target := answer.get("user_endpoint_id")) is not None:
        parts.starter.look_at(UUID(target))
    if asked.create_queue:
        queue = names.result_queue(caller.identity.id, UUID(answer["task_group_id"]))
        arguments = result_queue_arguments(parts.settings.retention_days)
        await parts.link.declare_queue(queue, arguments)


def _v3_answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: answer[key] for key in ("request_id", "task_group_id", "endpoint_id", "tasks")}


def _v2_answer(answer: Mapping[str, Any], old: SubmitRequestV2) -> dict[str, Any]:
    remaining = {function: iter(ids) for function, ids in answer["tasks"].items()}
    results = [
        {
            "status": "success",
            "task_uuid": next(remaining[str(function)]),
            "http_status_code": 200,
            "reason": None,
        }
        for function, _, _ in old.tasks
    ]
    return {
        "response": "success",
        "task_group_id": answer["task_group_id"],
        "results": results,
    }


def _log_tasks(tasks: Mapping[str, Sequence[str]], caller: Caller, target: Endpoint) -> None:
    for function_id, ids in tasks.items():
        for task_id in ids:
            log.info(
                "Task %s of %s for endpoint %s",
                task_id,
                caller.identity.username,
                target.id,
                extra={
                    "GC_TASK_ID": task_id,
                    "GC_FUNCTION_ID": function_id,
                    "GC_ENDPOINT_ID": target.id,
                },
            )
