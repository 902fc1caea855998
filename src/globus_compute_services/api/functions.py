# SPDX-License-Identifier: Apache-2.0
"""Registering, showing and deleting functions."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

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
from globus_compute_services.api.errors import ApiError, forbidden, not_found, unprocessable
from globus_compute_services.api.models import FunctionRequest
from globus_compute_services.store.identities import Caller, groups_of
from globus_compute_services.store.schema import Endpoint, Function

__all__ = ["delete_function", "register_function", "runnable_functions", "show_function"]


async def register_function(request: Request) -> Response:
    """``POST /v3/functions`` and ``POST /v2/functions``."""
    caller = await caller_of(request)
    asked = await parsed_body(FunctionRequest, await read_body(request))
    if len(asked.function_code.encode()) > parts_of(request).settings.max_payload_bytes:
        raise unprocessable(
            "FUNCTION_TOO_LARGE",
            f"The code of function {asked.function_name} is longer than "
            f"{parts_of(request).settings.max_payload_bytes} bytes; have it read its data instead",
        )
    if asked.ha_endpoint_id and (asked.public or asked.group):
        raise unprocessable(
            "INVALID_REQUEST", "ha_endpoint_id cannot be combined with public or group"
        )
    function = Function(
        id=uuid4(),
        owner_id=caller.identity.id,
        name=asked.function_name,
        code=asked.function_code,
        serialized=asked.serialized,
        meta=asked.meta or {},
        description=asked.description,
        public=asked.public,
        group_id=asked.group,
        created=time.time(),
    )
    async with parts_of(request).database.write() as session:
        session.add(function)
    return JSONResponse({"function_uuid": str(function.id)})


async def show_function(request: Request) -> Response:
    """``GET /v2/functions/{id}``."""
    caller = await caller_of(request)
    async with parts_of(request).database.read() as session:
        function = await _find(session, uuid_in_path(request, "function_id"))
        if not await _may_use(session, caller, function):
            raise forbidden(f"Function {function.id} is not shared with you; ask its owner")
    return JSONResponse(
        {
            "function_uuid": str(function.id),
            "function_name": function.name,
            "function_code": function.code,
            "description": function.description,
            "serialized": function.serialized,
            "metadata": function.meta,
            "public": function.public,
        }
    )


async def delete_function(request: Request) -> Response:
    """``DELETE /v2/functions/{id}``; its tasks go on."""
    caller = await caller_of(request)
    async with parts_of(request).database.write() as session:
        function = await _find(session, uuid_in_path(request, "function_id"))
        if function.owner_id not in caller.linked:
            raise forbidden(f"Function {function.id} is not yours to delete")
        await session.delete(function)
    return JSONResponse({"result": 302})


async def runnable_functions(
    session: AsyncSession, caller: Caller, endpoint: Endpoint, ids: set[UUID]
) -> dict[UUID, Function]:
    """The functions with these ids; raises ApiError unless all may be run on ``endpoint``."""
    found = await session.scalars(select(Function).where(Function.id.in_(ids)))
    functions = {function.id: function for function in found}
    for function_id in ids:
        if function_id not in functions:
            raise _unknown(function_id)
        if not await _may_use(session, caller, functions[function_id]):
            raise forbidden(f"Function {function_id} is not shared with you; ask its owner")
        allowed = endpoint.allowed_functions
        if allowed is not None and str(function_id) not in allowed:
            raise forbidden(
                f"Function {function_id} is not among those which endpoint {endpoint.id} runs; "
                "see Client.get_allowed_functions"
            )
    return functions


async def _find(session: AsyncSession, function_id: UUID) -> Function:
    function = await session.get(Function, function_id)
    if function is None:
        raise _unknown(function_id)
    return function


def _unknown(function_id: UUID) -> ApiError:
    return not_found("FUNCTION_NOT_FOUND", f"There is no function {function_id}; register it")


async def _may_use(session: AsyncSession, caller: Caller, function: Function) -> bool:
    if function.public or function.owner_id in caller.linked:
        return True
    return function.group_id is not None and function.group_id in await groups_of(
        session, caller.linked
    )
