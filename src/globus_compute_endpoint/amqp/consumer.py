# SPDX-License-Identifier: Apache-2.0
"""Consuming one queue with bounded prefetch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

__all__ = ["Consumer", "Delivery", "acknowledge"]

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


def acknowledge(deliveries: Iterable[Delivery]) -> None:
    """Tell the broker that these messages are done with, and all that came before them."""
    last = {delivery._channel: delivery for delivery in deliveries}
    for channel, delivery in last.items():
        if channel.is_open:  # else the broker has taken them back, and delivers them again
            channel.basic_ack(delivery._tag, multiple=True)


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
        self._paused = False

    @property
    def ready(self) -> bool:
        """Whether messages come, or would if we had not paused."""
        return self._tag is not None or (self._paused and self._channel is not None)

    def channel_opened(self, channel: Channel) -> None:
        """Subscribe to the queue."""
        self._channel = channel
        channel.add_on_cancel_callback(self._cancelled_by_broker)
        channel.basic_qos(prefetch_count=self._prefetch)
        self._subscribe()

    def channel_lost(self, reason: BaseException) -> None:  # noqa: ARG002  (the protocol's)
        """Forget the channel. What was not acknowledged will be delivered again."""
        self._channel = None
        self._tag = None

    def cancel(self) -> None:
        """Take no more messages, for good. Deliveries already made can still be acknowledged."""
        self._cancelled = True
        self._unsubscribe()

    def pause(self) -> None:
        """Take no more messages until :meth:`resume`; what still comes goes back to the queue."""
        self._paused = True
        self._unsubscribe()

    def resume(self) -> None:
        """Take messages again."""
        self._paused = False
        self._subscribe()

    def _subscribe(self) -> None:
        if self._channel is None or not self._channel.is_open or self._cancelled:
            return
        if self._paused:
            self._tell()
        elif self._tag is None:
            self._tag = self._channel.basic_consume(
                self.queue, self._delivered, exclusive=self._exclusive, callback=self._consume_ok
            )

    def _unsubscribe(self) -> None:
        if self._channel is not None and self._channel.is_open and self._tag is not None:
            self._channel.basic_cancel(self._tag)
        self._tag = None

    def _consume_ok(self, _frame: object) -> None:
        self._tell()

    def _tell(self) -> None:
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
        if self._cancelled or self._paused:
            delivery.reject(requeue=True)
        else:
            self._on_message(delivery)
