# SPDX-License-Identifier: Apache-2.0
"""Registering endpoints: the answer is all that one needs to reach its queues."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import (
    Parts,
    caller_of,
    parsed_body,
    parts_of,
    read_body,
    uuid_in_path,
)
from globus_compute_services.api.endpoints import find_endpoint
from globus_compute_services.api.errors import ApiError, conflict, forbidden
from globus_compute_services.api.models import EndpointRequest
from globus_compute_services.store.endpoints import is_locked
from globus_compute_services.store.identities import Caller
from globus_compute_services.store.schema import Endpoint, Kind

__all__ = ["register_endpoint", "update_endpoint"]

log = logging.getLogger(__name__)

_LONGEST_INSTANCE = 64  # characters


async def register_endpoint(request: Request) -> Response:
    """``POST /v3/endpoints`` and ``POST /v2/endpoints``: a new endpoint."""
    parts = parts_of(request)
    caller = await caller_of(request)
    asked = await parsed_body(EndpointRequest, await read_body(request))
    endpoint = _new_endpoint(caller, asked)
    async with parts.database.write() as session:
        session.add(endpoint)
    return await _answer(parts, endpoint)


async def update_endpoint(request: Request) -> Response:
    """``PUT /v3/endpoints/{id}``: an endpoint starts again, perhaps with other settings."""
    parts = parts_of(request)
    caller = await caller_of(request)
    endpoint_id = uuid_in_path(request, "endpoint_id")
    asked = await parsed_body(EndpointRequest, await read_body(request))
    async with parts.database.read() as session:
        known = await find_endpoint(session, endpoint_id)
    _check_owner(caller, known)
    # What runs of each endpoint, as far as this process knows: a database which was restored from
    # a backup tells of instances that are no more.
    instances: dict[UUID, str] = request.app.state.instances
    await _check_not_running(parts, known, asked, instances.get(endpoint_id))
    async with parts.database.write() as session:
        endpoint = await find_endpoint(session, endpoint_id)
        _apply(endpoint, asked)
        # Whoever still holds the old password is not this process.
        endpoint.generation += 1
        # The first heartbeat is to count as coming online.
        endpoint.heartbeat_period = 0.0
    if (instance := _instance(asked)) is not None:
        instances[endpoint_id] = instance
    else:
        instances.pop(endpoint_id, None)
    if endpoint.kind == Kind.MANAGER and asked.metadata.get("renewal"):
        parts.starter.manager_was_refused(endpoint_id)
    return await _answer(parts, endpoint)


def _instance(asked: EndpointRequest) -> str | None:
    """Which life of an endpoint registers, as far as that says so."""
    instance = asked.metadata.get("instance")
    known = isinstance(instance, str) and 0 < len(instance) <= _LONGEST_INSTANCE
    return instance if known else None


def _check_owner(caller: Caller, endpoint: Endpoint) -> None:
    if endpoint.kind == Kind.USER or endpoint.owner_id not in caller.linked:
        raise forbidden(
            f"Endpoint {endpoint.id} was registered by another identity than "
            f"{caller.identity.username}; sign in as that one, or configure a new endpoint"
        )
    if is_locked(endpoint):
        assert endpoint.locked_until is not None
        wait = int(endpoint.locked_until - time.time()) + 1
        raise ApiError(
            HTTPStatus.LOCKED,
            "ENDPOINT_LOCKED",
            f"Endpoint {endpoint.id} was stopped remotely and is locked for {wait} s more",
        )


async def _check_not_running(
    parts: Parts, endpoint: Endpoint, asked: EndpointRequest, latest: str | None
) -> None:
    """Refuse a second instance, unless it starts on the same host.

    There a lock on the endpoint's directory has ruled it out, and the consumer is what is left
    of a connection that broke: a host which lost power must not be kept out. An instance which
    registers anew while it runs, because its credentials are refused, has lost the endpoint to
    one which registered later, be that ``latest`` or one which consumes.
    """
    renewal = asked.metadata.get("renewal")
    if renewal and latest not in (None, _instance(asked)):
        raise _runs_already(endpoint)
    if not await parts.accounts.is_consuming(endpoint):
        return
    same = "instance" if renewal else "hostname"
    told = asked.metadata.get(same)
    if told == endpoint.details.get(same) and not (renewal and told is None):
        log.info("Closing the old connections of endpoint %s, which starts anew", endpoint.id)
        await parts.accounts.disconnect(endpoint.id)
        return
    raise _runs_already(endpoint)


def _runs_already(endpoint: Endpoint) -> ApiError:
    return conflict(
        "ENDPOINT_ALREADY_RUNNING",
        f"Endpoint {endpoint.id} is already running on host "
        f"{endpoint.details.get('hostname', 'unknown')}; stop it there first",
    )


async def _answer(parts: Parts, endpoint: Endpoint) -> Response:
    await parts.accounts.provide(endpoint)
    answer: dict[str, Any] = {
        **parts.accounts.queue_infos(endpoint),
        # The peer expects it always; only a manager's account can read that queue.
        "command_queue_info": parts.accounts.command_queue_info(endpoint),
        "warnings": [],
    }
    log.info(
        "Endpoint %s (%s, %s) has registered",
        endpoint.id,
        endpoint.name,
        endpoint.kind,
        extra={"GC_ENDPOINT_ID": endpoint.id},
    )
    return JSONResponse(answer)


def _new_endpoint(caller: Caller, asked: EndpointRequest) -> Endpoint:
    endpoint = Endpoint(
        id=uuid4(),
        owner_id=caller.identity.id,
        generation=1,
        locked_until=None,
        seen=None,
        heartbeat_period=0.0,
        report={},
        created=time.time(),
        manager_id=None,
        user_key=None,
        user_config=None,
        user_runtime=None,
    )
    _apply(endpoint, asked)
    return endpoint


def _apply(endpoint: Endpoint, asked: EndpointRequest) -> None:
    endpoint.kind = Kind.MANAGER if asked.is_manager else Kind.SINGLE
    endpoint.name = asked.endpoint_name
    endpoint.display_name = asked.display_name
    endpoint.public = asked.public
    endpoint.details = asked.metadata
    endpoint.allowed_functions = _texts(asked.allowed_functions)
    endpoint.authentication_policy = asked.authentication_policy
    endpoint.subscription_uuid = asked.subscription_uuid
    endpoint.high_assurance = asked.high_assurance
    endpoint.admins = _texts(asked.admins)


def _texts(ids: list[UUID] | None) -> list[str] | None:
    return [str(one) for one in ids] if ids else None
