# SPDX-License-Identifier: Apache-2.0
"""Fronts, with TLS and without, for the test host's broker; and certificates for them."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.authority import Authority


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a server on 127.0.0.1 that it vouches for."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    """Write a new authority and a server's certificate into a directory."""
    authority = Authority()
    made = Certificates(*(directory / name for name in ("ca.pem", "server.pem", "key.pem")))
    contents = (authority.certificate, *authority.issue(["127.0.0.1"]))
    for path, text in zip((made.authority, made.certificate, made.key), contents, strict=True):
        path.write_text(text)
    return made


@asynccontextmanager
async def front(made: Certificates | None, port: int = 0) -> AsyncIterator[int]:
    """Pass connections on to the broker, TLS ones with ``made``; yields our own port."""
    context = None
    if made is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", 5672)
        ways = (pump(reader, inner_writer), pump(inner_reader, writer))
        await asyncio.gather(*ways, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextmanager
def front_in_a_thread(made: Certificates | None, port: int) -> Iterator[None]:
    """The same for tests without a loop."""
    loop = asyncio.new_event_loop()
    opened, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with front(made, port):
            opened.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        assert opened.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
