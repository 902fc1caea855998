# SPDX-License-Identifier: Apache-2.0
"""Showing, locking and deleting endpoints."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import caller_of, parts_of, uuid_in_path
from globus_compute_services.api.errors import forbidden, not_found, unprocessable
from globus_compute_services.relay.reports import FIGURES
from globus_compute_services.store.endpoints import is_online
from globus_compute_services.store.identities import Caller
from globus_compute_services.store.schema import Endpoint, Kind
from globus_compute_services.store.tasks import fail_outstanding

__all__ = [
    "delete_endpoint",
    "find_endpoint",
    "list_endpoints",
    "lock_endpoint",
    "may_manage",
    "show_allowed_functions",
    "show_endpoint",
    "show_status",
]


async def find_endpoint(session: AsyncSession, endpoint_id: UUID) -> Endpoint:
    """Raises ApiError 404 if there is none."""
    endpoint = await session.get(Endpoint, endpoint_id)
    if endpoint is None:
        raise not_found("ENDPOINT_NOT_FOUND", f"There is no endpoint {endpoint_id}")
    return endpoint


def may_manage(caller: Caller, endpoint: Endpoint) -> bool:
    """Owner or administrator."""
    admins = {UUID(admin) for admin in endpoint.admins or ()}
    return endpoint.owner_id in caller.linked or not admins.isdisjoint(caller.linked)


async def show_endpoint(request: Request) -> Response:
    """``GET /v2/endpoints/{id}``."""
    caller, endpoint, _ = await _visible(request)
    return JSONResponse(_document(endpoint, full=may_manage(caller, endpoint)))


async def list_endpoints(request: Request) -> Response:
    """``GET /v2/endpoints?role=owner|any``: the caller's own, or also the public ones."""
    caller = await caller_of(request)
    role = request.query_params.get("role", "owner")
    if role not in ("owner", "any"):
        raise unprocessable("INVALID_ROLE", f"role: {role!r} is neither owner nor any")
    wanted = Endpoint.owner_id.in_(caller.linked)
    async with parts_of(request).database.read() as session:
        endpoints = await session.scalars(
            select(Endpoint)
            .where(
                Endpoint.kind != Kind.USER,
                or_(wanted, Endpoint.public.is_(True)) if role == "any" else wanted,
            )
            .order_by(Endpoint.created)
        )
        documents = [
            {
                "uuid": str(endpoint.id),
                "name": endpoint.name,
                "display_name": endpoint.display_name,
                "owner": str(endpoint.owner_id),
            }
            for endpoint in endpoints
        ]
    return JSONResponse(documents)


async def show_status(request: Request) -> Response:
    """``GET /v2/endpoints/{id}/status``: online or not, and what the last heartbeat said.

    Names of machines, jobs and accounts are for its owner and administrators, and its manager's.
    """
    _, endpoint, manages = await _visible(request)
    status = "online" if is_online(endpoint) else "offline"
    details = {name: value for name, value in endpoint.report.items() if manages or name in FIGURES}
    return JSONResponse({"status": status, "details": details})


async def show_allowed_functions(request: Request) -> Response:
    """``GET /v3/endpoints/{id}/allowed_functions``."""
    _, endpoint, _ = await _visible(request)
    return JSONResponse(
        {
            "endpoint_id": str(endpoint.id),
            "restricted": endpoint.allowed_functions is not None,
            "functions": endpoint.allowed_functions or [],
        }
    )


async def lock_endpoint(request: Request) -> Response:
    """``POST /v3/endpoints/{id}/lock``: stop it remotely, and keep it stopped for a while."""
    parts = parts_of(request)
    caller = await caller_of(request)
    until = time.time() + parts.settings.lock_s
    async with parts.database.write() as session:
        endpoint = await _managed(session, request, caller)
        endpoint.locked_until = until
        endpoint.generation += 1
        endpoint.heartbeat_period = 0.0
    await parts.accounts.disconnect(endpoint.id)
    return JSONResponse(
        {
            "endpoint_id": str(endpoint.id),
            "lock_expiration_timestamp": datetime.fromtimestamp(until, UTC).isoformat(),
        }
    )


async def delete_endpoint(request: Request) -> Response:
    """``DELETE /v2/endpoints/{id}``: with its user endpoints; their tasks fail."""
    parts = parts_of(request)
    caller = await caller_of(request)
    async with parts.database.write() as session:
        endpoint = await _managed(session, request, caller)
        users = await session.scalars(select(Endpoint).where(Endpoint.manager_id == endpoint.id))
        gone = [endpoint, *users]
        for each in gone:
            await fail_outstanding(session, each.id, f"Endpoint {endpoint.id} was deleted")
        await session.execute(delete(Endpoint).where(Endpoint.id.in_([one.id for one in gone])))
    parts.dispatcher.wake()
    for each in gone:
        await parts.accounts.remove(each.id)
    return JSONResponse({"result": 302})


async def _managed(session: AsyncSession, request: Request, caller: Caller) -> Endpoint:
    endpoint = await find_endpoint(session, uuid_in_path(request, "endpoint_id"))
    if not may_manage(caller, endpoint):
        raise forbidden(f"Endpoint {endpoint.id} belongs to someone else")
    return endpoint


async def _visible(request: Request) -> tuple[Caller, Endpoint, bool]:
    """Who asks, what for, and whether they manage it, or its manager."""
    caller = await caller_of(request)
    async with parts_of(request).database.read() as session:
        endpoint = await find_endpoint(session, uuid_in_path(request, "endpoint_id"))
        manages = may_manage(caller, endpoint)
        if not manages and endpoint.manager_id is not None:
            manager = await session.get(Endpoint, endpoint.manager_id)
            manages = manager is not None and may_manage(caller, manager)
    if not (manages or endpoint.public or endpoint.kind == Kind.MANAGER):
        raise forbidden(f"Endpoint {endpoint.id} belongs to someone else")
    return caller, endpoint, manages


def _document(endpoint: Endpoint, *, full: bool) -> dict[str, Any]:
    details = endpoint.details
    document = {
        "uuid": str(endpoint.id),
        "name": endpoint.name,
        "display_name": endpoint.display_name,
        "owner": str(endpoint.owner_id),
        "multi_user": endpoint.kind == Kind.MANAGER,
        "public": endpoint.public,
        "high_assurance": endpoint.high_assurance,
        "user_config_template": details.get("user_config_template", ""),
        "user_config_schema": details.get("user_config_schema") or {},
        "endpoint_version": details.get("endpoint_version"),
        "python_version": details.get("python_version"),
        "subscription_uuid": _text(endpoint.subscription_uuid),
        "authentication_policy": _text(endpoint.authentication_policy),
    }
    if full:
        document |= {
            "endpoint_config": details.get("endpoint_config"),
            "hostname": details.get("hostname"),
            "local_user": details.get("local_user"),
        }
    return document


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
