# SPDX-License-Identifier: Apache-2.0
"""AMQP on the loopback, passed on over TLS to the site's broker."""

from __future__ import annotations

import asyncio
import logging
import ssl
from urllib.parse import urlsplit, urlunsplit

from globus_compute_services.connect.address import Address
from globus_compute_services.problem import ExitStatus, Problem

__all__ = ["Tunnel"]

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 20
_CHUNK = 64 * 1024
_AMQPS_PORT = 5671


class Tunnel:
    """Takes AMQP connections and passes their bytes on; the services tell where to."""

    def __init__(self, context: ssl.SSLContext, local: Address) -> None:
        self._context = context
        self._local = local
        self._broker: Address | None = None

    async def open(self) -> asyncio.Server:
        """Listen; the caller closes the server. Raises Problem."""
        try:
            return await asyncio.start_server(self._serve, self._local.host, self._local.port)
        except OSError as error:
            raise Problem(
                f"Cannot listen on {self._local}: {error.strerror}",
                "choose another address: --amqp-listen",
                ExitStatus.UNAVAILABLE,
            ) from error

    def reroute(self, url: str) -> str:
        """The URL by which an SDK here reaches the broker of ``url``, which we take note of.

        A broker without TLS is left to be reached directly.
        """
        parts = urlsplit(url)
        if parts.scheme != "amqps" or parts.hostname is None:
            return url
        self._broker = Address(parts.hostname, parts.port or _AMQPS_PORT)
        credentials, _, _ = parts.netloc.rpartition("@")
        netloc = f"{credentials}@{self._local}" if credentials else str(self._local)
        return urlunsplit(parts._replace(scheme="amqp", netloc=netloc))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._broker is None:
            # After a restart of ours: the SDK tries again, and asks the services first.
            log.info(
                "Hung up on an AMQP client: the services have not yet said where its broker is"
            )
            writer.close()
            return
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                there = await asyncio.open_connection(
                    self._broker.host, self._broker.port, ssl=self._context
                )
        except (OSError, TimeoutError) as error:
            log.error("Cannot reach the broker at %s: %s", self._broker, error or "time-out")
            writer.close()
            return
        await _join((reader, writer), there)


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(here: _Stream, there: _Stream) -> None:
    """Pass on what comes from either, until one of them has ended."""
    ways = {
        asyncio.create_task(_pump(here[0], there[1])),
        asyncio.create_task(_pump(there[0], here[1])),
    }
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (here, there):
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError as error:
        log.info("An AMQP connection broke: %s", error)
