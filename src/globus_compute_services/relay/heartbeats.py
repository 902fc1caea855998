# SPDX-License-Identifier: Apache-2.0
"""Heartbeats and failure reports of endpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.broker import names
from globus_compute_services.broker.link import Delivery
from globus_compute_services.documents import storable_document
from globus_compute_services.relay.dispatch import Dispatcher
from globus_compute_services.relay.reports import Report
from globus_compute_services.relay.starts import Starter
from globus_compute_services.store.database import Database
from globus_compute_services.store.endpoints import is_online, online_for
from globus_compute_services.store.schema import Endpoint, Kind
from globus_compute_services.store.tasks import fail_outstanding, note_progress, reset_queue

__all__ = ["HeartbeatsRelay"]

log = logging.getLogger(__name__)

_TASKS = 4096  # of which a report may speak: each is a write
_LONGEST_MESSAGE = 10_000  # characters; each failed task gets a copy


@dataclass(frozen=True)
class _Message:
    endpoint_id: UUID
    failure: str | None
    report: Report
    progress: dict[UUID, str]


class HeartbeatsRelay:
    """Handles batches of the heartbeats queue."""

    def __init__(self, database: Database, dispatcher: Dispatcher, starter: Starter) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._starter = starter

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Take note of each report, in order."""
        for delivery in deliveries:
            message = _parse(delivery)
            if message is None:
                continue
            if message.failure is not None:
                await self._take_failure(message.endpoint_id, message.failure)
            else:
                await self._take_heartbeat(message)

    async def _take_failure(self, endpoint_id: UUID, message: str) -> None:
        """A user endpoint failed, or did not start: so do its tasks."""
        fields = {"GC_ENDPOINT_ID": endpoint_id}
        async with self._database.write() as session:
            endpoint = await session.get(Endpoint, endpoint_id)
            if endpoint is None or endpoint.kind != Kind.USER:
                log.warning(
                    "Endpoint %s reports, but is not failed for it: %s",
                    endpoint_id,
                    message,
                    extra=fields,
                )
                return
            endpoint.heartbeat_period = 0.0
            endpoint.report = {"error": message}
            failed = await fail_outstanding(session, endpoint_id, message)
            await reset_queue(session, endpoint_id)
        self._starter.forget_command(endpoint_id)
        self._dispatcher.wake()
        log.warning(
            "User endpoint %s failed with %d tasks: %s",
            endpoint_id,
            len(failed),
            message,
            extra=fields,
        )
        for task_id in failed:
            log.info(
                "Task %s failed with its user endpoint",
                task_id,
                extra={"GC_TASK_ID": task_id, **fields},
            )

    async def _take_heartbeat(self, message: _Message) -> None:
        async with self._database.write() as session:
            endpoint = await session.get(Endpoint, message.endpoint_id)
            if endpoint is None:
                return
            was_online = is_online(endpoint)
            await self._note(session, endpoint, message)
            online = is_online(endpoint)
        if endpoint.kind == Kind.MANAGER and online and not was_online:
            await self._starter.manager_came_online(endpoint.id)
        if endpoint.kind == Kind.USER:
            self._starter.forget_command(endpoint.id)
            self._starter.look_at(endpoint.id, online_for(endpoint))
        if online != was_online:
            log.info(
                "Endpoint %s is %s",
                endpoint.id,
                "online" if online else "offline",
                extra={"GC_ENDPOINT_ID": endpoint.id},
            )

    async def _note(self, session: AsyncSession, endpoint: Endpoint, message: _Message) -> None:
        endpoint.seen = time.time()
        endpoint.heartbeat_period = message.report.period
        endpoint.report = message.report.document()
        await note_progress(session, endpoint.id, message.progress)


def _parse(delivery: Delivery) -> _Message | None:
    endpoint = names.endpoint_of_key(delivery.routing_key)
    try:
        message = messagepack.unpack(delivery.body)
        if not isinstance(message, EPStatusReport) or message.endpoint_id != endpoint:
            raise ValueError(f"a {type(message).__name__} published as {delivery.routing_key}")
        state = storable_document(message.global_state)
        progress = {
            UUID(task_id): transitions[-1].state.value
            for task_id, transitions in islice(message.task_statuses.items(), _TASKS)
            if transitions
        }
    except Exception as error:  # noqa: BLE001 (any bytes may come, and unpack tells in many ways)
        log.warning("Dropped what is not a report: %s", error, extra={"GC_ENDPOINT_ID": endpoint})
        return None
    failure = None if state.get("error") is None else str(state["error"])[:_LONGEST_MESSAGE]
    return _Message(message.endpoint_id, failure, Report.model_validate(state), progress)
