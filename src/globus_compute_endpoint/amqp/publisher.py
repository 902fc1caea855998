# SPDX-License-Identifier: Apache-2.0
"""Publishing with confirms: a message counts as sent when the broker has taken charge of it."""

from __future__ import annotations

import asyncio
import logging
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from globus_compute_endpoint.amqp.connection import Connection
from globus_compute_endpoint.amqp.queue_info import PublishKwargs, ResultQueueInfo

__all__ = ["Publisher", "TooLarge", "Unroutable", "publish_once"]

log = logging.getLogger(__name__)

_SIZE_LIMIT = re.compile(r"message size \d+ .*max size (\d+)")  # in RabbitMQ's own words


class Unroutable(Exception):
    """The broker has no queue for the message, or refused to store it."""


class TooLarge(Unroutable):
    """The broker takes no message of this size."""


class _Pending:
    __slots__ = ("body", "confirmed", "number", "returned")

    def __init__(self, number: int, body: bytes, confirmed: asyncio.Future[None]) -> None:
        self.number = number
        self.body = body
        self.confirmed = confirmed
        self.returned: str | None = None


class Publisher:
    """A :class:`ChannelUser` which publishes as ``publish`` says.

    What is not yet confirmed when a connection is lost is published again on the next, in
    order: receivers may see a message twice, and never miss one.
    """

    def __init__(self, publish: PublishKwargs) -> None:
        self._publish = publish
        self._channel: Channel | None = None
        self._ready = False
        self._count = 0
        self._tag = 0
        self._waiting: dict[int, _Pending] = {}  # by our own number: all that is unconfirmed
        self._tags: dict[int, _Pending] = {}  # by delivery tag, in order: sent on this channel

    @property
    def outstanding(self) -> int:
        """How many messages are unconfirmed."""
        return len(self._waiting)

    def redirect(self, publish: PublishKwargs) -> None:
        """Publish what follows to another destination."""
        self._publish = publish

    def publish(self, body: bytes) -> asyncio.Future[None]:
        """Publish ``body``; the future is done when the broker has confirmed it.

        It fails with :class:`Unroutable`, or :class:`TooLarge`. Cancel it to give up: a message
        whose future was cancelled is not sent again.
        """
        self._count += 1
        pending = _Pending(self._count, body, asyncio.get_running_loop().create_future())
        self._waiting[pending.number] = pending
        if self._ready:
            self._send(pending)
        return pending.confirmed

    def channel_opened(self, channel: Channel) -> None:
        """Ask for confirms, then send all that waits."""
        self._channel = channel
        self._tag = 0
        self._tags.clear()
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, callback=self._confirms_selected)

    def channel_lost(self, reason: BaseException) -> None:
        """Keep what is unconfirmed for the next channel, but for what has cost us this one."""
        self._channel = None
        self._ready = False
        self._tags.clear()
        if (limit := _size_limit(reason)) is None:
            return
        for pending in list(self._waiting.values()):
            if len(pending.body) > limit:
                del self._waiting[pending.number]
                if not pending.confirmed.done():
                    size = f"a message of {len(pending.body)} bytes; its limit is {limit}"
                    pending.confirmed.set_exception(TooLarge(f"the broker takes no {size}"))

    def _confirms_selected(self, _frame: object) -> None:
        self._ready = True
        for pending in list(self._waiting.values()):
            if pending.confirmed.done():
                del self._waiting[pending.number]
            else:
                pending.returned = None
                self._send(pending)

    def _send(self, pending: _Pending) -> None:
        channel = self._channel
        if channel is None or not channel.is_open:
            return  # between the loss of the channel and the news of it
        self._tag += 1
        self._tags[self._tag] = pending
        properties = BasicProperties(
            **{**self._publish.properties, "message_id": str(pending.number)}
        )
        channel.basic_publish(
            self._publish.exchange,
            self._publish.routing_key,
            pending.body,
            properties,
            mandatory=self._publish.mandatory,
        )

    def _returned(
        self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes
    ) -> None:
        # The broker confirms a returned message right afterwards, as if all were well.
        if pending := self._waiting.get(int(properties.message_id)):
            pending.returned = f"{method.reply_text} ({method.reply_code})"

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        tag = method.delivery_tag
        if method.multiple:
            tags = list(takewhile(lambda sent: sent <= tag, self._tags))
        else:
            tags = [tag] if tag in self._tags else []
        refused = isinstance(method, Basic.Nack)
        for each in tags:
            self._settle(self._tags.pop(each), refused=refused)

    def _settle(self, pending: _Pending, *, refused: bool) -> None:
        self._waiting.pop(pending.number, None)
        if pending.confirmed.done():
            return
        if refused:
            pending.confirmed.set_exception(Unroutable("the broker could not store the message"))
        elif pending.returned is not None:
            where = f"{self._publish.exchange}/{self._publish.routing_key}"
            pending.confirmed.set_exception(
                Unroutable(f"the broker has no queue for {where}: {pending.returned}")
            )
        else:
            pending.confirmed.set_result(None)


def _size_limit(reason: BaseException) -> int | None:
    """In bytes, where a message above it has made the broker close the channel."""
    if not isinstance(reason, ChannelClosedByBroker):
        return None
    found = _SIZE_LIMIT.search(reason.reply_text)
    return int(found[1]) if found else None


async def publish_once(
    info: ResultQueueInfo,
    body: bytes,
    *,
    name: str,
    port: int | None = None,
    ca_file: Path | None = None,
    ca_certificates: str | None = None,
    timeout: float = 30.0,  # noqa: ASYNC109  (it bounds more than one await)
) -> None:
    """Publish one message over a connection of its own.

    Raises:
        TimeoutError: not confirmed within ``timeout`` seconds.
        Unroutable: confirmed, but there is no queue for it.
    """
    connection = Connection(
        info.connection_url,
        name=name,
        port=port,
        ca_file=ca_file,
        ca_certificates=ca_certificates,
    )
    publisher = Publisher(info.queue_publish_kwargs)
    connection.add(publisher)
    running = asyncio.create_task(connection.run(), name=f"{name} connection")
    try:
        async with asyncio.timeout(timeout):
            await publisher.publish(body)
    finally:
        await connection.close()
        await running
