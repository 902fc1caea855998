# SPDX-License-Identifier: Apache-2.0
"""Sends what the database says must be sent, and forgets it once the broker has it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from pika import BasicProperties
from sqlalchemy import delete, select

from globus_compute_services.broker.link import BrokerLink
from globus_compute_services.broker.publisher import Unroutable
from globus_compute_services.broker.rpc import BrokerDown, BrokerRefused
from globus_compute_services.store.database import Database
from globus_compute_services.store.schema import Outbox, OutboxKind

__all__ = ["Dispatcher", "result_queue_arguments"]

log = logging.getLogger(__name__)

_BATCH_ROWS = 256
_BATCH_BYTES = 32 * 1024 * 1024
_REFUSED_PAUSE_S = 0.5


def result_queue_arguments(retention_days: int) -> dict[str, Any]:
    """A result queue goes by itself when it was idle for as long as results are kept."""
    return {"x-expires": retention_days * 24 * 3600 * 1000}


class Dispatcher:
    """Publishes the outbox in order, with confirms.

    A row is deleted only when the broker has confirmed it. After a crash in between, the message
    is sent again: receivers know tasks and results by their ids.
    """

    def __init__(self, database: Database, link: BrokerLink, retention_days: int) -> None:
        self._database = database
        self._link = link
        self._result_queue_arguments = result_queue_arguments(retention_days)
        self._wake = asyncio.Event()
        self._wake.set()
        self._stopping = False

    def wake(self) -> None:
        """Say that there is something new in the outbox."""
        self._wake.set()

    def stop(self) -> None:
        """Have :meth:`run` end once what it has sent is confirmed, and forgotten."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send until stopped; waits without polling while there is nothing to do or no broker."""
        while not self._stopping:
            await self._wake.wait()
            await self._link.up.wait()
            self._wake.clear()
            try:
                while not self._stopping and (rows := await self._next_rows()):
                    await self._send(rows)
            except (BrokerDown, BrokerRefused) as error:
                log.warning("Sending is interrupted: %s", error)
                self._wake.set()
                # A broker which refuses (it is out of disk, say) is not to be asked in a loop.
                await asyncio.sleep(_REFUSED_PAUSE_S)

    async def _next_rows(self) -> Sequence[Outbox]:
        """The first rows of the outbox, as many as are reasonable to hold in memory at once."""
        async with self._database.read() as session:
            sizes = await session.execute(
                select(Outbox.id, Outbox.size).order_by(Outbox.id).limit(_BATCH_ROWS)
            )
            ids: list[int] = []
            total = 0
            for row_id, size in sizes:
                total += size
                if ids and total > _BATCH_BYTES:
                    break
                ids.append(row_id)
            rows = select(Outbox).where(Outbox.id.in_(ids)).order_by(Outbox.id)
            return list(await session.scalars(rows))

    async def _send(self, rows: Sequence[Outbox]) -> None:
        start = 0
        for index, row in enumerate(rows):
            if row.kind == OutboxKind.RESET:
                await self._publish_all(rows[start:index])
                await self._reset(row)
                start = index + 1
        await self._publish_all(rows[start:])

    async def _reset(self, row: Outbox) -> None:
        # Deleting takes what a consumer holds as well, which purging would leave.
        await self._link.delete_queue(row.queue)
        await self._link.declare_queue(row.queue)
        await self._forget([row.id])

    async def _publish_all(self, rows: Sequence[Outbox]) -> None:
        confirmed = [self._publish(row) for row in rows]
        outcomes = await asyncio.gather(*confirmed, return_exceptions=True)
        sent: list[int] = []
        unroutable: list[Outbox] = []
        failures: list[BaseException] = []
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is None:
                sent.append(row.id)
            elif isinstance(outcome, Unroutable):
                unroutable.append(row)
            else:
                failures.append(outcome)
        if sent:
            await self._forget(sent)
        if failures:
            raise failures[0]
        for row in unroutable:
            await self._publish_to_new_queue(row)

    async def _publish_to_new_queue(self, row: Outbox) -> None:
        """Send again what found no queue: an expired one, or one that is being made."""
        arguments = self._result_queue_arguments if row.kind == OutboxKind.RESULT else None
        await self._link.declare_queue(row.queue, arguments)
        try:
            await self._publish(row)
        except Unroutable:
            raise BrokerDown(f"queue {row.queue} vanished") from None
        await self._forget([row.id])

    def _publish(self, row: Outbox) -> asyncio.Future[None]:
        log.debug(
            "Sending a %s", row.kind, extra={"GC_TASK_ID": row.task_id, "GC_QUEUE": row.queue}
        )
        headers = dict(row.headers)
        if row.kind == OutboxKind.RESULT:
            headers["high_assurance"] = False
        properties = BasicProperties(
            delivery_mode=2,
            content_type="application/octet-stream",
            message_id=str(row.id),
            timestamp=int(time.time()),
            headers=headers,
        )
        return self._link.publish("", row.queue, row.body, properties)

    async def _forget(self, ids: Sequence[int]) -> None:
        async with self._database.write() as session:
            await session.execute(delete(Outbox).where(Outbox.id.in_(ids)))
