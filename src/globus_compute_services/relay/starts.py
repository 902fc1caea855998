# SPDX-License-Identifier: Apache-2.0
"""Start commands: sent to a manager while a user endpoint has work and gives no sign of life."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any
from uuid import UUID

from pika import BasicProperties
from sqlalchemy import select

from globus_compute_services.broker import names
from globus_compute_services.broker.accounts import Accounts
from globus_compute_services.broker.link import BrokerLink
from globus_compute_services.broker.management import ManagementRefused
from globus_compute_services.broker.publisher import Unroutable
from globus_compute_services.broker.rpc import BrokerDown, BrokerRefused
from globus_compute_services.store.database import Database
from globus_compute_services.store.endpoints import (
    is_online,
    online_for,
    user_endpoints_with_work,
)
from globus_compute_services.store.identities import linked_identities
from globus_compute_services.store.schema import Endpoint, Identity

__all__ = ["COMMAND_LIFETIME_S", "Starter"]

log = logging.getLogger(__name__)

COMMAND_LIFETIME_S = 170
_REPEAT_S = 60.0  # a user endpoint may take this long to show itself
_RETRY_S = 5.0


class Starter:
    """Watches over the user endpoints which have work.

    It looks at each when there is a reason to: tasks came, its manager came online, it said
    goodbye, it failed, or a deadline passed by which it should have been heard of. What it knows
    (when a command was sent) may be forgotten: after a restart every silent one is told again.

    Its own times are those of the monotonic clock: a command which was refused as stale because
    some clock was set comes again when it is due.
    """

    def __init__(self, database: Database, link: BrokerLink, accounts: Accounts) -> None:
        self._database = database
        self._link = link
        self._accounts = accounts
        self._sent: dict[UUID, float] = {}
        self._due: dict[UUID, float] = {}
        self._renewed: set[UUID] = set()  # managers
        self._refused: set[UUID] = set()  # user endpoints, as far as we can tell
        self._changed = asyncio.Event()

    def look_at(self, endpoint: UUID, delay: float = 0.0) -> None:
        """Look at a user endpoint after ``delay`` seconds, or earlier if that was asked before."""
        at = time.monotonic() + delay
        self._due[endpoint] = min(at, self._due.get(endpoint, at))
        self._changed.set()

    def forget_command(self, endpoint: UUID) -> None:
        """Whatever command was sent has had its effect; the next reason sends another."""
        self._sent.pop(endpoint, None)

    def manager_was_refused(self, manager: UUID) -> None:
        """The broker has refused a manager which runs: most likely its user endpoints, too.

        When it comes online those with work get their accounts again, by a start command, although
        they were heard of a moment ago.
        """
        self._renewed.add(manager)

    async def manager_came_online(self, manager: UUID) -> None:
        """Repeat the commands which it may have missed."""
        async with self._database.read() as session:
            waiting = await user_endpoints_with_work(session, manager=manager)
        if manager in self._renewed:
            self._renewed.discard(manager)
            self._refused.update(endpoint.id for endpoint in waiting)
        for endpoint in waiting:
            self.forget_command(endpoint.id)
            self.look_at(endpoint.id)

    async def run(self) -> None:
        """Look at each endpoint when it is due, for ever."""
        async with self._database.read() as session:
            for endpoint in await user_endpoints_with_work(session):
                self.look_at(endpoint.id)
        while True:
            await self._link.up.wait()
            now = time.monotonic()
            for endpoint_id in [known for known, due in self._due.items() if due <= now]:
                del self._due[endpoint_id]
                await self._look(endpoint_id)
            await self._wait_for_next()

    async def _wait_for_next(self) -> None:
        timeout = min(self._due.values()) - time.monotonic() if self._due else None
        if timeout is not None and timeout <= 0:
            return
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _look(self, endpoint_id: UUID) -> None:
        async with self._database.read() as session:
            waiting = await user_endpoints_with_work(session, endpoint=endpoint_id)
        refused = endpoint_id in self._refused
        self._refused.discard(endpoint_id)
        if not waiting:
            return
        endpoint = waiting[0]
        if is_online(endpoint) and not refused:
            self.look_at(endpoint_id, online_for(endpoint))
            return
        if (sent := self._sent.get(endpoint_id)) is not None:
            wait = sent + _REPEAT_S - time.monotonic()
            if wait > 0:
                self.look_at(endpoint_id, wait)
                return
        try:
            await self._send(endpoint)
        except (BrokerDown, BrokerRefused, ManagementRefused, Unroutable) as error:
            log.warning("No start command for user endpoint %s: %s", endpoint_id, error)
            self.look_at(endpoint_id, _RETRY_S)
        else:
            self._sent[endpoint_id] = time.monotonic()
            self.look_at(endpoint_id, _REPEAT_S)

    async def _send(self, endpoint: Endpoint) -> None:
        assert endpoint.manager_id is not None
        async with self._database.read() as session:
            manager = await session.scalar(
                select(Endpoint).where(Endpoint.id == endpoint.manager_id)
            )
            owner = await session.get_one(Identity, endpoint.owner_id)
            linked = await linked_identities(session, owner)
        if manager is None or not is_online(manager):
            # It would expire unread; when the manager comes online, there is a reason to look.
            return
        await self._accounts.provide(endpoint)
        command = _command(endpoint, owner, linked, self._accounts.queue_infos(endpoint))
        properties = BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            timestamp=int(time.time()),
            expiration=str(COMMAND_LIFETIME_S * 1000),
            message_id=f"start.{endpoint.id}.{time.time_ns()}",
        )
        queue = names.command_queue(manager.id)
        await self._link.publish("", queue, json.dumps(command).encode(), properties)
        log.info(
            "Told manager %s to start user endpoint %s for %s",
            manager.id,
            endpoint.id,
            owner.username,
            extra={"GC_ENDPOINT_ID": endpoint.id, "GC_MANAGER_ID": manager.id},
        )


def _command(
    endpoint: Endpoint, owner: Identity, linked: list[Identity], infos: dict[str, Any]
) -> dict[str, Any]:
    return {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": {
            "name": f"uep.{endpoint.manager_id}.{endpoint.id}",
            "user_opts": endpoint.user_config or {},
            "user_runtime": endpoint.user_runtime or {},
            "amqp_creds": infos,
        },
        "globus_effective_identity": str(owner.id),
        "globus_username": owner.username,
        "globus_identity_set": [identity_document(identity) for identity in linked],
    }


def identity_document(identity: Identity) -> dict[str, Any]:
    """An identity as Globus Auth describes it."""
    return {
        "sub": str(identity.id),
        "id": str(identity.id),
        "username": identity.username,
        "name": identity.name,
        "email": identity.email,
        "organization": identity.organization,
        "identity_provider": str(UUID(int=0)),
        "identity_provider_display_name": "globus-compute-services",
        "identity_type": "login",
        "status": "used",
    }
