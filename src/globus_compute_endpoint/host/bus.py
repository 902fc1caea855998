# SPDX-License-Identifier: Apache-2.0
"""A D-Bus client on the running event loop: calls with a time-out, signals by a call-back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageType, new_method_call
from jeepney.bus_messages import message_bus
from jeepney.io.asyncio import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg

__all__ = ["Bus"]

log = logging.getLogger(__name__)

_CALL_TIMEOUT_S = 15.0


class Bus:
    """One connection. The router that jeepney brings hides the end of the connection; we need it
    to stop at once instead of waiting for replies which never come."""

    def __init__(self, connection: DBusConnection, on_signal: Callable[[Message], None]) -> None:
        self._connection = connection
        self._on_signal = on_signal
        self._replies: dict[int, asyncio.Future[Message]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, name: str, on_signal: Callable[[Message], None], on_lost: Callable[[], None]
    ) -> AsyncIterator[Bus]:
        """Connect to the ``SYSTEM`` bus or an address; ``on_lost`` tells that it went away."""
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            connection = await open_dbus_connection(name)
        bus = cls(connection, on_signal)
        receiver = asyncio.create_task(bus._receive(on_lost))
        try:
            yield bus
        finally:
            receiver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await receiver
            await connection.close()

    async def call(
        self, address: DBusAddress, method: str, signature: str = "", body: tuple[Any, ...] = ()
    ) -> Any:
        """The body of the reply. Raises DBusErrorResponse, TimeoutError, ConnectionError."""
        return await self._request(new_method_call(address, method, signature or None, body))

    async def subscribe(self, rule: MatchRule) -> None:
        """Have the bus send us the signals that match."""
        await self._request(message_bus.AddMatch(rule))

    async def _request(self, message: Message) -> Any:
        serial = next(self._connection.outgoing_serial)
        reply = self._replies[serial] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await self._connection.send(message, serial=serial)
                return unwrap_msg(await reply)
        finally:
            self._replies.pop(serial, None)

    async def _receive(self, on_lost: Callable[[], None]) -> None:
        try:
            while True:
                self._dispatch(await self._connection.receive())
        # The end of the connection, or bytes which are no message: either way there is no next one.
        except Exception as error:
            log.exception("the connection to the message bus was lost")
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(ConnectionError(f"the message bus went away: {error}"))
            on_lost()

    def _dispatch(self, message: Message) -> None:
        if message.header.message_type is MessageType.signal:
            self._on_signal(message)
            return
        reply = self._replies.get(message.header.fields.get(HeaderFields.reply_serial, -1))
        if reply and not reply.done():
            reply.set_result(message)
