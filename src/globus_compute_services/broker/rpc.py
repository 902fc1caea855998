# SPDX-License-Identifier: Apache-2.0
"""pika's callbacks turned into awaitables, for one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosed

__all__ = ["RPC_TIMEOUT_S", "BrokerDown", "BrokerRefused", "RpcChannel", "open_channel", "settle"]

RPC_TIMEOUT_S = 20


def settle(future: asyncio.Future[Any], value: object) -> None:
    """Give ``future`` its result, unless whoever waited has gone."""
    if not future.done():
        future.set_result(value)


class BrokerDown(Exception):
    """The broker cannot be reached, or the connection went down meanwhile: try again later."""


class BrokerRefused(Exception):
    """The broker refused a request by closing the channel. ``code`` is AMQP's reply code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class RpcChannel:
    """A channel on which each request has a time-out and fails when the channel closes."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._waiting: set[asyncio.Future[Any]] = set()
        channel.add_on_close_callback(self._on_closed)

    async def call(self, method: Callable[..., object], **arguments: object) -> Any:
        """Call a method of the channel which takes ``callback=``; return what it answers.

        Raises BrokerRefused or BrokerDown.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        try:
            method(callback=lambda frame: settle(answer, frame), **arguments)
            async with asyncio.timeout(RPC_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise BrokerDown(f"no answer from RabbitMQ in {RPC_TIMEOUT_S} s") from None
        except AMQPError as error:
            raise BrokerDown(str(error)) from error
        finally:
            self._waiting.discard(answer)

    def close(self) -> None:
        if self.channel.is_open:
            self.channel.close()

    def _on_closed(self, _channel: Channel, reason: Exception) -> None:
        failure: Exception = BrokerDown(f"the channel was closed: {reason}")
        if isinstance(reason, ChannelClosed):
            failure = BrokerRefused(reason.reply_code, reason.reply_text)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(failure)


async def open_channel(connection: Any) -> RpcChannel:
    """Open a channel of ``connection``; raises BrokerDown."""
    opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    try:
        connection.channel(on_open_callback=lambda channel: settle(opened, channel))
        async with asyncio.timeout(RPC_TIMEOUT_S):
            return RpcChannel(await opened)
    except (AMQPError, TimeoutError) as error:
        raise BrokerDown(f"RabbitMQ opened no channel: {error!r}") from error
