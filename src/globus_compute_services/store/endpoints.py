# SPDX-License-Identifier: Apache-2.0
"""Endpoints as the services know them, and whether they are alive."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.store.schema import Endpoint, Kind, Task

__all__ = [
    "SILENCE_FACTOR",
    "find_user_endpoint",
    "is_locked",
    "is_online",
    "online_for",
    "user_endpoints_with_work",
]

SILENCE_FACTOR = 2.5  # heartbeat periods after which an endpoint counts as gone
_CLOCK_SLACK_S = 10.0  # by which a clock is corrected now and then


def online_for(endpoint: Endpoint) -> float:
    """The seconds after which an endpoint counts as gone if nothing is heard of it; 0: it is gone.

    After the clock was set, also back, that is so until its next heartbeat.
    """
    if endpoint.seen is None or endpoint.heartbeat_period <= 0:  # 0: it has said goodbye
        return 0.0
    silent = time.time() - endpoint.seen
    if silent < -_CLOCK_SLACK_S:
        return 0.0
    return max(SILENCE_FACTOR * endpoint.heartbeat_period - silent, 0.0)


def is_online(endpoint: Endpoint) -> bool:
    return online_for(endpoint) > 0


def is_locked(endpoint: Endpoint) -> bool:
    return endpoint.locked_until is not None and endpoint.locked_until > time.time()


async def find_user_endpoint(
    session: AsyncSession,
    manager: Endpoint,
    identity: UUID,
    config: dict[str, Any],
    runtime: dict[str, Any] | None,
) -> Endpoint:
    """The user endpoint of (manager, identity, config); recorded now if there was none."""
    key = _user_key(manager.id, identity, config)
    found = await session.scalar(select(Endpoint).where(Endpoint.user_key == key))
    if found is not None:
        found.user_runtime = runtime if runtime is not None else found.user_runtime
        return found
    made = Endpoint(
        id=uuid4(),
        kind=Kind.USER,
        owner_id=identity,
        name=manager.name,
        display_name=manager.display_name,
        public=False,
        details={},
        allowed_functions=None,
        authentication_policy=None,
        subscription_uuid=None,
        high_assurance=manager.high_assurance,
        admins=None,
        generation=1,
        locked_until=None,
        seen=None,
        heartbeat_period=0.0,
        report={},
        created=time.time(),
        manager_id=manager.id,
        user_key=key,
        user_config=config,
        user_runtime=runtime,
    )
    session.add(made)
    await session.flush()
    return made


def _user_key(manager: UUID, identity: UUID, config: dict[str, Any]) -> str:
    canonical = json.dumps([str(manager), str(identity), config], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def user_endpoints_with_work(
    session: AsyncSession, *, manager: UUID | None = None, endpoint: UUID | None = None
) -> list[Endpoint]:
    """User endpoints (all, those of one manager, or the one) which have outstanding tasks."""
    outstanding = (
        select(Task.id).where(Task.target_id == Endpoint.id, Task.completed.is_(None)).exists()
    )
    wanted = select(Endpoint).where(Endpoint.kind == Kind.USER, outstanding)
    if manager is not None:
        wanted = wanted.where(Endpoint.manager_id == manager)
    if endpoint is not None:
        wanted = wanted.where(Endpoint.id == endpoint)
    return list(await session.scalars(wanted))
