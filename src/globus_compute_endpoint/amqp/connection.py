# SPDX-License-Identifier: Apache-2.0
"""One AMQP connection which is opened again, with back-off, until it is closed on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import ConnectionClosedByClient
from pydantic import SecretStr

from globus_compute_endpoint.amqp.queue_info import describe
from globus_compute_endpoint.backoff import Backoff

__all__ = ["ChannelUser", "Connection", "parameters"]

log = logging.getLogger(__name__)

_OPEN_TIMEOUT = 20.0  # TCP, TLS and the AMQP handshake, together
_CLOSE_TIMEOUT = 3.0
_HEARTBEAT = 20  # two missed ones end a connection
_UNANSWERED_MS = 20_000  # for which TCP goes on sending to a peer that has vanished
_BLOCKED_TIMEOUT = 300  # a broker short of disk or memory blocks its publishers
_PROVEN = 10.0  # a connection which lasted this long was a good one


class _GatheringConnection(AsyncioConnection):  # type: ignore[misc]  # pika is untyped
    """Writes all frames of one turn of the loop at once.

    pika calls send() for each, four times a task, and each call gives engine threads the chance
    to take the interpreter's lock away for a while.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._gathered: list[bytes] = []
        super().__init__(*arguments, **options)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._emit_gathered)
        self._gathered.append(data)

    def _emit_gathered(self) -> None:
        data = b"".join(self._gathered)
        self._gathered.clear()
        if self._transport is not None:  # else it was lost meanwhile
            super()._adapter_emit_data(data)


class ChannelUser(Protocol):
    """Something which wants a channel of its own on each new connection."""

    def channel_opened(self, channel: Channel) -> None:
        """Take the channel into use."""

    def channel_lost(self, reason: BaseException) -> None:
        """Forget the channel; another will come."""


def parameters(
    url: SecretStr,
    *,
    name: str,
    port: int | None = None,
    ca_file: Path | None = None,
    ca_certificates: str | None = None,
) -> pika.connection.Parameters:
    """Turn a connection URL into pika's parameters, with bounded time-outs.

    ``name`` is shown in the broker's list of connections; ``port`` replaces the URL's. Where
    ``ca_file`` or ``ca_certificates`` (PEM) are given, the system's authorities are not trusted.
    """
    result = pika.URLParameters(url.get_secret_value())
    if port is not None:
        result.port = port
    if result.ssl_options is not None:
        context = ssl.create_default_context(
            cafile=str(ca_file) if ca_file else None, cadata=ca_certificates
        )
        result.ssl_options = pika.SSLOptions(context, result.host)
    result.client_properties = {"connection_name": name}
    result.heartbeat = _HEARTBEAT
    result.tcp_options = {"TCP_USER_TIMEOUT": _UNANSWERED_MS}
    result.blocked_connection_timeout = _BLOCKED_TIMEOUT
    result.socket_timeout = _OPEN_TIMEOUT / 2
    result.stack_timeout = _OPEN_TIMEOUT
    result.connection_attempts = 1
    return result


class Connection:
    """A connection with a channel for each of its users, kept up by :meth:`run`.

    When the connection or any of its channels is lost, all are opened anew. ``on_up`` and
    ``on_down`` are called on the loop; ``on_down`` gets the reason.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        name: str,
        port: int | None = None,
        ca_file: Path | None = None,
        ca_certificates: str | None = None,
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[BaseException], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self._url = url
        self._port = port
        self._parameters = functools.partial(
            parameters, name=name, port=port, ca_file=ca_file, ca_certificates=ca_certificates
        )
        self._on_up = on_up
        self._on_down = on_down
        self._backoff = backoff or Backoff()
        self._users: list[ChannelUser] = []
        self._current: _Attempt | None = None
        self._closing = False
        self.closed_in_order = False  # the broker has agreed: it has dealt with all we have sent
        self._wake = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether the connection is open, and each user has its channel."""
        return self._current is not None and self._current.up

    def add(self, user: ChannelUser) -> None:
        """Give ``user`` a channel, now if the connection is up, and on each new connection."""
        self._users.append(user)
        if self._current is not None and self._current.up:
            self._current.open_channel(user)

    def replace_url(self, url: SecretStr) -> None:
        """Go on with these credentials: with others, the connection is made anew at once.

        The same may have become good again: they are tried at once if they do not serve now.
        """
        if url == self._url and self._current is not None:
            return
        self._url = url
        self._backoff.reset()
        if self._current is not None:
            self._current.abandon(ConnectionResetError("fresh credentials have arrived"))
        self._wake.set()

    async def run(self) -> None:
        """Keep the connection up until :meth:`close`."""
        while not self._closing:
            began = time.monotonic()
            reason = await self._once()
            if self._closing:
                return
            if time.monotonic() - began > _PROVEN:
                self._backoff.reset()
            delay = self._backoff.next()
            log.warning(
                "%s: not connected to %s (%s); trying again in %.1f s",
                self.name,
                describe(self._url, self._port),
                explain(reason),
                delay,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
            self._wake.clear()

    async def close(self) -> None:
        """Close the connection, politely within a few seconds, and end :meth:`run`."""
        self._closing = True
        self._wake.set()
        if self._current is not None:
            self.closed_in_order = await self._current.close()

    async def _once(self) -> BaseException:
        """Connect, stay connected, and return why that ended."""
        try:
            settings = self._parameters(self._url)
            self._current = attempt = _Attempt(settings, self._users, self._came_up)
            reason = await attempt.wait()
        except (OSError, ValueError) as error:  # a CA file gone, an address that is none
            return error
        finally:
            self._current = None
        for user in self._users:
            user.channel_lost(reason)
        if self._on_down is not None:
            self._on_down(reason)
        return reason

    def _came_up(self) -> None:
        log.info("%s: connected to %s", self.name, describe(self._url, self._port))
        if self._on_up is not None:
            self._on_up()


class _Attempt:
    """One connection from its opening to its end."""

    def __init__(
        self,
        settings: pika.connection.Parameters,
        users: list[ChannelUser],
        on_up: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.up = False
        self._users = users
        self._on_up = on_up
        self._missing = 0
        self._ended: asyncio.Future[BaseException] = loop.create_future()
        self._reason: BaseException | None = None
        self._agreed = False
        self._timer = loop.call_later(_OPEN_TIMEOUT, self._too_slow)
        self._connection = _GatheringConnection(
            settings,
            on_open_callback=self._opened,
            on_open_error_callback=self._lost,
            on_close_callback=self._lost,
            custom_ioloop=loop,
        )

    async def wait(self) -> BaseException:
        """Return why the connection ended, once it has."""
        try:
            return await self._ended
        finally:
            self._timer.cancel()

    async def close(self) -> bool:
        self.abandon(ConnectionAbortedError("closed"))
        await asyncio.wait([self._ended], timeout=_CLOSE_TIMEOUT)
        self._end(ConnectionAbortedError("closed"))
        return self._agreed

    def abandon(self, reason: BaseException) -> None:
        """Begin to close; ``reason`` is what the end will be put down to."""
        if self._reason is None:
            self._reason = reason
        if self._connection.is_open or not (
            self._connection.is_closing or self._connection.is_closed
        ):
            self._connection.close()
        # A peer which has vanished never answers the close.
        asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, self._end, reason)

    def open_channel(self, user: ChannelUser) -> None:
        self._missing += 1

        def opened(channel: Channel) -> None:
            channel.add_on_close_callback(self._channel_lost)
            user.channel_opened(channel)
            self._missing -= 1
            if not self._missing and not self.up:
                self.up = True
                self._timer.cancel()
                self._on_up()

        self._connection.channel(on_open_callback=opened)

    def _opened(self, _connection: Any) -> None:
        for user in self._users:
            self.open_channel(user)

    def _channel_lost(self, _channel: Channel, reason: BaseException) -> None:
        if not self._connection.is_closing and not self._connection.is_closed:
            self.abandon(reason)

    def _lost(self, _connection: Any, reason: BaseException) -> None:
        self._agreed = isinstance(reason, ConnectionClosedByClient)
        self._end(reason)

    def _too_slow(self) -> None:
        self.abandon(TimeoutError(f"no connection within {_OPEN_TIMEOUT:.0f} s"))

    def _end(self, reason: BaseException) -> None:
        self.up = False
        if not self._ended.done():
            self._ended.set_result(self._reason or reason)


def explain(reason: BaseException) -> str:
    """Return the innermost cause of a failed connection in one line."""
    while True:  # pika keeps it in one of these
        inner = getattr(reason, "exceptions", None) or getattr(reason, "exception", reason.args)
        nested = inner[-1] if isinstance(inner, list | tuple) and inner else inner
        if not isinstance(nested, BaseException):
            return f"{type(reason).__name__}: {reason}".strip(": ")
        reason = nested
