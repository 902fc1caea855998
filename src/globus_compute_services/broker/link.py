# SPDX-License-Identifier: Apache-2.0
"""The services' connection to RabbitMQ, which comes back by itself."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pika import BasicProperties, URLParameters
from pika.adapters.asyncio_connection import AsyncioConnection

from globus_compute_services.broker import names
from globus_compute_services.broker.publisher import ConfirmedPublisher
from globus_compute_services.broker.rpc import (
    BrokerDown,
    BrokerRefused,
    RpcChannel,
    open_channel,
    settle,
)

__all__ = ["BrokerLink", "Consumption", "Delivery"]

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 20
_HEARTBEAT_S = 20  # two missed ones end a connection
_UNANSWERED_MS = 20_000  # for which TCP goes on sending to a peer that has vanished
_BACKOFF_S = (0.5, 3.0)
_OUTAGE_S = 20  # a restart of RabbitMQ, which requests sit out
_NOT_FOUND = 404
_PRECONDITION_FAILED = 406


@dataclass(frozen=True)
class Delivery:
    """One message taken from a queue, to be acknowledged on the channel it came by."""

    channel: Any
    tag: int
    routing_key: str
    body: bytes


@dataclass(frozen=True)
class Consumption:
    """A queue to consume whenever there is a connection; at most ``prefetch`` messages unacked."""

    queue: str
    prefetch: int
    deliver: Callable[[Delivery], None]


class BrokerLink:
    """One connection, kept up by ``run``.

    While it is down, requests wait a while for its return before they raise BrokerDown.
    """

    def __init__(self, url: str) -> None:
        self._parameters = URLParameters(url)
        self._parameters.heartbeat = _HEARTBEAT_S
        self._parameters.tcp_options = {"TCP_USER_TIMEOUT": _UNANSWERED_MS}
        self._parameters.blocked_connection_timeout = 60
        self._consumptions: list[Consumption] = []
        self._connection: AsyncioConnection | None = None
        self._publisher: ConfirmedPublisher | None = None
        self._requests = asyncio.Lock()
        self.up = asyncio.Event()

    def consume(self, consumption: Consumption) -> None:
        """Have ``consumption`` started with each connection; to be called before ``run``."""
        self._consumptions.append(consumption)

    async def run(self) -> None:
        """Connect, and connect again with a growing, jittered pause, until cancelled."""
        pause = _BACKOFF_S[0]
        while True:
            try:
                closed = await self._connect()
                pause = _BACKOFF_S[0]
                log.info("Connected to RabbitMQ", extra={"GC_BROKER": self._parameters.host})
                reason: object = await closed
            except (BrokerDown, BrokerRefused) as error:
                reason = error
            finally:
                self._drop()
            wait = random.uniform(pause / 2, pause)  # noqa: S311 (jitter, not a secret)
            log.warning("No connection to RabbitMQ (%s), again in %.1f s", reason, wait)
            await asyncio.sleep(wait)
            pause = min(pause * 2, _BACKOFF_S[1])

    def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: BasicProperties
    ) -> asyncio.Future[None]:
        """See ConfirmedPublisher.publish; raises BrokerDown while there is no connection."""
        if self._publisher is None:
            raise BrokerDown("there is no connection to RabbitMQ")
        return self._publisher.publish(exchange, routing_key, body, properties)

    async def declare_queue(self, queue: str, arguments: dict[str, Any] | None = None) -> None:
        """Make a durable queue if it is not there; if it is, its idle time starts anew."""
        try:
            await self._request("queue_declare", queue=queue, durable=True, arguments=arguments)
        except BrokerRefused as refusal:
            # It is there, made with the arguments of an earlier configuration.
            if refusal.code != _PRECONDITION_FAILED:
                raise

    async def delete_queue(self, queue: str) -> None:
        """Delete a queue with all in it, also what a consumer holds unacknowledged."""
        await self._request("queue_delete", queue=queue)

    async def count_consumers(self, queue: str) -> int:
        """How many consumers a queue has; 0 for one that does not exist."""
        try:
            frame = await self._request("queue_declare", queue=queue, passive=True)
        except BrokerRefused as refusal:
            if refusal.code == _NOT_FOUND:
                return 0
            raise
        return int(frame.method.consumer_count)

    async def _request(self, method: str, **arguments: object) -> Any:
        await self._wait_until_up()
        async with self._requests:
            if self._connection is None:
                raise BrokerDown("the connection to RabbitMQ was lost just now")
            rpc = await open_channel(self._connection)
            try:
                return await rpc.call(getattr(rpc.channel, method), **arguments)
            finally:
                rpc.close()

    async def _wait_until_up(self) -> None:
        try:
            async with asyncio.timeout(_OUTAGE_S):
                await self.up.wait()
        except TimeoutError:
            raise BrokerDown("there is no connection to RabbitMQ") from None

    async def _connect(self) -> asyncio.Future[object]:
        closed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        connection = await self._open_connection(closed)
        self._connection = connection
        await self._declare_own()
        rpc = await open_channel(connection)
        publisher = ConfirmedPublisher(rpc)
        await publisher.start()
        self._watch(rpc, closed)
        for consumption in self._consumptions:
            await self._start_consuming(consumption, closed)
        self._publisher = publisher
        self.up.set()
        return closed

    async def _open_connection(self, closed: asyncio.Future[object]) -> AsyncioConnection:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def failed(_connection: object, error: BaseException) -> None:
            if not opened.done():
                opened.set_exception(BrokerDown(f"{type(error).__name__} {error}"))

        connection = AsyncioConnection(
            self._parameters,
            on_open_callback=lambda _: settle(opened, None),
            on_open_error_callback=failed,
            on_close_callback=lambda _, reason: self._lost(closed, reason),
        )
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await opened
        except TimeoutError:
            raise BrokerDown(f"no connection within {_CONNECT_TIMEOUT_S} s") from None
        return connection

    async def _declare_own(self) -> None:
        """The exchanges to which endpoints publish, and the queues where we take it from."""
        assert self._connection is not None
        rpc = await open_channel(self._connection)
        own = (
            (names.RESULTS, names.RESULTS_QUEUE, "*.results"),
            (names.HEARTBEATS, names.HEARTBEATS_QUEUE, "*.heartbeats"),
        )
        for exchange, queue, key in own:
            await rpc.call(
                rpc.channel.exchange_declare,
                exchange=exchange,
                exchange_type="topic",
                durable=True,
            )
            await rpc.call(rpc.channel.queue_declare, queue=queue, durable=True)
            await rpc.call(rpc.channel.queue_bind, queue=queue, exchange=exchange, routing_key=key)
        rpc.close()

    async def _start_consuming(
        self, consumption: Consumption, closed: asyncio.Future[object]
    ) -> None:
        assert self._connection is not None
        rpc = await open_channel(self._connection)
        await rpc.call(rpc.channel.basic_qos, prefetch_count=consumption.prefetch)
        await rpc.call(
            rpc.channel.basic_consume,
            queue=consumption.queue,
            on_message_callback=lambda channel, method, _properties, body: consumption.deliver(
                Delivery(channel, method.delivery_tag, method.routing_key, body)
            ),
            exclusive=True,
        )
        self._watch(rpc, closed)
        rpc.channel.add_on_cancel_callback(lambda _: rpc.close())

    def _watch(self, rpc: RpcChannel, closed: asyncio.Future[object]) -> None:
        """A lost channel is treated like a lost connection: all is set up anew."""
        rpc.channel.add_on_close_callback(lambda _, reason: self._lost(closed, reason))

    def _lost(self, closed: asyncio.Future[object], reason: object) -> None:
        self.up.clear()
        settle(closed, reason)

    def _drop(self) -> None:
        self.up.clear()
        self._publisher = None
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            connection.close()
