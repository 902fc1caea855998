# SPDX-License-Identifier: Apache-2.0
"""Publishing with confirms: a message counts as sent once a queue has taken it."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

from pika import BasicProperties
from pika.exceptions import AMQPError
from pika.spec import Basic

from globus_compute_services.broker.rpc import BrokerDown, RpcChannel

__all__ = ["ConfirmedPublisher", "Unroutable"]


class Unroutable(Exception):
    """No queue took the message: the one that it was for does not exist."""


class ConfirmedPublisher:
    """Publishes on one channel in confirm mode; dies with the channel."""

    def __init__(self, rpc: RpcChannel) -> None:
        self._rpc = rpc
        self._tags = count(1)
        self._unconfirmed: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self._returned: set[str] = set()

    async def start(self) -> None:
        channel = self._rpc.channel
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_closed)
        await self._rpc.call(channel.confirm_delivery, ack_nack_callback=self._on_confirm)

    def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: BasicProperties
    ) -> asyncio.Future[None]:
        """Send; the future is done when the broker has the message safe in a queue.

        It fails with Unroutable, or with BrokerDown (then the message may or may not be there).
        ``properties.message_id`` must be set, and unique among unconfirmed messages.
        """
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._rpc.channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)
        except AMQPError as error:
            confirmed.set_exception(BrokerDown(str(error)))
            return confirmed
        self._unconfirmed[next(self._tags)] = (properties.message_id, confirmed)
        return confirmed

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._returned.add(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        for tag in tags:
            message_id, confirmed = self._unconfirmed.pop(tag)
            self._settle(message_id, confirmed, accepted=isinstance(method, Basic.Ack))

    def _settle(self, message_id: str, confirmed: asyncio.Future[None], *, accepted: bool) -> None:
        returned = message_id in self._returned
        self._returned.discard(message_id)
        if confirmed.done():
            return
        if returned:
            confirmed.set_exception(Unroutable(message_id))
        elif accepted:
            confirmed.set_result(None)
        else:
            confirmed.set_exception(BrokerDown("RabbitMQ could not store the message"))

    def _on_closed(self, _channel: Any, reason: Exception) -> None:
        for _, confirmed in self._unconfirmed.values():
            if not confirmed.done():
                confirmed.set_exception(BrokerDown(f"the channel was closed: {reason}"))
        self._unconfirmed.clear()
