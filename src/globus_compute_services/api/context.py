# SPDX-License-Identifier: Apache-2.0
"""What a request handler works with: the running parts, who asks, and a checked body."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from globus_compute_services.api.errors import ApiError, bad_request, unprocessable
from globus_compute_services.auth.desk import Desk
from globus_compute_services.broker.accounts import Accounts
from globus_compute_services.broker.link import BrokerLink
from globus_compute_services.relay.dispatch import Dispatcher
from globus_compute_services.relay.starts import Starter
from globus_compute_services.settings import Settings
from globus_compute_services.store.database import Database
from globus_compute_services.store.identities import Caller, caller_of_token

__all__ = [
    "COMPUTE_SERVER",
    "Parts",
    "caller_of",
    "parsed_body",
    "parts_of",
    "read_body",
    "uuid_in_path",
]

COMPUTE_SERVER = "funcx_service"
_LARGE_BODY = 1024 * 1024
_SMALL_REQUEST = 16 * 1024 * 1024
_LONGEST_PAUSE_S = 60.0

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Parts:
    """The running parts of the services."""

    settings: Settings
    database: Database
    link: BrokerLink
    accounts: Accounts
    dispatcher: Dispatcher
    starter: Starter
    desk: Desk


def parts_of(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


async def caller_of(request: Request, server: str = COMPUTE_SERVER) -> Caller:
    """Whose access token comes with the request; raises ApiError 401."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    caller = None
    if scheme.lower() == "bearer" and token:
        async with parts_of(request).database.read() as session:
            caller = await caller_of_token(session, token.strip())
    if caller is None or caller.token.resource_server != server:
        raise ApiError(
            HTTPStatus.UNAUTHORIZED,
            "UNAUTHENTICATED",
            "The access token is missing, unknown or expired; sign in again",
            {"WWW-Authenticate": "Bearer"},
        )
    return caller


def uuid_in_path(request: Request, name: str) -> UUID:
    """The identifier in the path; raises ApiError 422."""
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise unprocessable(
            "INVALID_UUID", f"{name}: {request.path_params[name]!r} is not a UUID"
        ) from None


async def read_body(request: Request, limit: int = _SMALL_REQUEST) -> bytes:
    """The body of a request.

    Raises ApiError: 413 once it is longer than ``limit`` bytes, 408 if no more of it comes.
    """
    body = bytearray()
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(_LONGEST_PAUSE_S) as pause:
            async for part in request.stream():
                body += part
                pause.reschedule(clock() + _LONGEST_PAUSE_S)
                if len(body) > limit:
                    raise ApiError(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        "REQUEST_TOO_LARGE",
                        f"The request is longer than {limit} bytes; send less at once",
                        {"Connection": "close"},
                    )
    except TimeoutError:
        raise ApiError(
            HTTPStatus.REQUEST_TIMEOUT,
            "REQUEST_TIMEOUT",
            f"No more of the request came for {_LONGEST_PAUSE_S:.0f} s; try again",
            {"Connection": "close"},
        ) from None
    return bytes(body)


async def parsed_body(model: type[ModelT], body: bytes) -> ModelT:
    """``body`` as a model; raises ApiError 400 if it is not JSON, 422 naming what is wrong."""
    if len(body) > _LARGE_BODY:
        return await asyncio.to_thread(_parse, model, body)
    return _parse(model, body)


def _parse(model: type[ModelT], body: bytes) -> ModelT:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The request is not JSON: {error}") from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, item['loc'])) or 'the request'}: {item['msg']}"
            for item in error.errors()[:10]
        )
        raise unprocessable("INVALID_REQUEST", "; ".join(wrong)) from None
