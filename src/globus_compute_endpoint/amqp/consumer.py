# SPDX-License-Identifier: Apache-2.0
"""Consuming one queue with bounded prefetch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

__all__ = ["Consumer", "Delivery"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it was delivered. To be acknowledged or rejected, once."""

    body: bytes
    properties: BasicProperties
    redelivered: bool
    _channel: Channel
    _tag: int

    def ack(self) -> None:
        """Tell the broker that the message is done with."""
        if self._channel.is_open:  # else the broker has taken it back, and delivers it again
            self._channel.basic_ack(self._tag)

    def reject(self, *, requeue: bool) -> None:
        """Give the message back to the queue, or have it dropped."""
        if self._channel.is_open:
            self._channel.basic_reject(self._tag, requeue=requeue)


class Consumer:
    """A :class:`ChannelUser` which hands each message of a queue to ``on_message``.

    No more than ``prefetch`` messages are unacknowledged at a time. ``on_message`` is called on
    the loop and must not block.
    """

    def __init__(
        self,
        queue: str,
        on_message: Callable[[Delivery], None],
        *,
        prefetch: int,
        exclusive: bool = True,
        on_consuming: Callable[[], None] | None = None,
    ) -> None:
        self.queue = queue
        self._on_message = on_message
        self._prefetch = prefetch
        self._exclusive = exclusive
        self._on_consuming = on_consuming
        self._channel: Channel | None = None
        self._tag: str | None = None
        self._cancelled = False

    @property
    def consuming(self) -> bool:
        """Whether the broker has confirmed the subscription, and it stands."""
        return self._tag is not None

    def channel_opened(self, channel: Channel) -> None:
        """Subscribe to the queue."""
        self._channel = channel
        if self._cancelled:
            return
        channel.add_on_cancel_callback(self._cancelled_by_broker)
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(
            self.queue, self._delivered, exclusive=self._exclusive, callback=self._consume_ok
        )

    def channel_lost(self, reason: BaseException) -> None:  # noqa: ARG002  (the protocol's)
        """Forget the channel. What was not acknowledged will be delivered again."""
        self._channel = None
        self._tag = None

    def cancel(self) -> None:
        """Take no more messages, for good. Deliveries already made can still be acknowledged."""
        self._cancelled = True
        if self._channel is not None and self._channel.is_open and self._tag is not None:
            self._channel.basic_cancel(self._tag)
        self._tag = None

    def _consume_ok(self, frame: object) -> None:
        self._tag = frame.method.consumer_tag  # type: ignore[attr-defined]  # pika is untyped
        if self._on_consuming is not None:
            self._on_consuming()

    def _cancelled_by_broker(self, _frame: object) -> None:
        log.warning("the broker has ended our subscription to %s", self.queue)
        if self._channel is not None:
            self._channel.close(reply_text="subscription ended")

    def _delivered(
        self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        delivery = Delivery(body, properties, method.redelivered, channel, method.delivery_tag)
        if self._cancelled:
            delivery.reject(requeue=True)
        else:
            self._on_message(delivery)
