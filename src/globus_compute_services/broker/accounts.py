# SPDX-License-Identifier: Apache-2.0
"""Broker accounts of endpoints and researchers: exactly what each needs, and nothing else."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from globus_compute_services.broker import names
from globus_compute_services.broker.link import BrokerLink
from globus_compute_services.broker.management import Management
from globus_compute_services.credentials import derive_password
from globus_compute_services.settings import Settings
from globus_compute_services.store.schema import Endpoint, Kind

__all__ = ["RESULT_ACCOUNT_PERIOD_S", "Accounts"]

RESULT_ACCOUNT_PERIOD_S = 7 * 24 * 3600


class Accounts:
    """Makes and unmakes accounts and queues, and tells clients how to use them."""

    def __init__(self, settings: Settings, management: Management, link: BrokerLink) -> None:
        self._broker = settings.broker
        self._key = settings.key
        self._management = management
        self._link = link
        self._result_accounts: set[str] = set()

    async def provide(self, endpoint: Endpoint) -> None:
        """Make an endpoint's queues, and its account with the password of its generation."""
        manager = endpoint.kind == Kind.MANAGER
        await self._link.declare_queue(names.task_queue(endpoint.id))
        if manager:
            await self._link.declare_queue(names.command_queue(endpoint.id))
        account = names.endpoint_account(endpoint.id)
        await self._management.put_account(
            account,
            derive_password(self._key, account, endpoint.generation),
            names.endpoint_rights(endpoint.id, manager=manager),
        )

    async def disconnect(self, endpoint: UUID) -> None:
        """Close an endpoint's connections, and let none in until it registers again."""
        await self._management.delete_account(names.endpoint_account(endpoint))

    async def remove(self, endpoint: UUID) -> None:
        """Delete an endpoint's account and queues."""
        await self.disconnect(endpoint)
        await self._link.delete_queue(names.task_queue(endpoint))
        await self._link.delete_queue(names.command_queue(endpoint))

    async def is_consuming(self, endpoint: Endpoint) -> bool:
        """Whether some process consumes the queue by which an endpoint is known to run."""
        name = names.command_queue if endpoint.kind == Kind.MANAGER else names.task_queue
        return await self._link.count_consumers(name(endpoint.id)) > 0

    def queue_infos(self, endpoint: Endpoint) -> dict[str, Any]:
        """How the endpoint reaches its queues: the registration answer, and start commands."""
        account = names.endpoint_account(endpoint.id)
        password = derive_password(self._key, account, endpoint.generation)
        url = self._broker.client_url(account, password)
        return {
            "endpoint_id": str(endpoint.id),
            "task_queue_info": _consume(url, names.task_queue(endpoint.id)),
            "result_queue_info": _publish(
                url, names.RESULTS, names.RESULTS_QUEUE, names.results_key(endpoint.id)
            ),
            "heartbeat_queue_info": _publish(
                url, names.HEARTBEATS, names.HEARTBEATS_QUEUE, names.heartbeats_key(endpoint.id)
            ),
        }

    def command_queue_info(self, manager: Endpoint) -> dict[str, Any]:
        """How a manager reaches its command queue."""
        account = names.endpoint_account(manager.id)
        password = derive_password(self._key, account, manager.generation)
        url = self._broker.client_url(account, password)
        return _consume(url, names.command_queue(manager.id))

    async def result_account(self, identity: UUID) -> tuple[str, str, float]:
        """An account that reads the identity's results: its name, its URL, when it expires.

        It is shared by all processes of the identity for a week, and lives for another: then the
        SDK asks for the URL again, as it does whenever it connects.
        """
        period = int(time.time() // RESULT_ACCOUNT_PERIOD_S)
        account = names.result_account(identity, period)
        password = derive_password(self._key, account, 0)
        if account not in self._result_accounts:
            await self._management.put_account(account, password, names.result_rights(identity))
            self._result_accounts.add(account)
        expires = float((period + 2) * RESULT_ACCOUNT_PERIOD_S)
        return account, self._broker.client_url(account, password), expires

    async def remove_result_account(self, account: str) -> None:
        self._result_accounts.discard(account)
        await self._management.delete_account(account)


def _consume(url: str, queue: str) -> dict[str, Any]:
    return {"connection_url": url, "exchange": "amq.direct", "queue": queue}


def _publish(url: str, exchange: str, queue: str, routing_key: str) -> dict[str, Any]:
    return {
        "connection_url": url,
        "exchange": exchange,
        "queue": queue,
        "queue_publish_kwargs": {
            "exchange": exchange,
            "routing_key": routing_key,
            "mandatory": True,
            "properties": {"delivery_mode": 2, "content_type": "application/octet-stream"},
        },
    }
