# SPDX-License-Identifier: Apache-2.0
"""Connections which are left hanging, and requests which are not for the forwarder."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from globus_compute_services.api import context
from globus_compute_services.api.errors import EXCEPTION_HANDLERS
from globus_compute_services.connect.address import Address
from globus_compute_services.connect.forwarder import Forwarder
from globus_compute_services.connect.tunnel import Tunnel
from globus_compute_services.problem import Problem
from globus_compute_services.web_server import PromptProtocol, WebServer, listen

LONGEST_IDLE_S = 2
PAUSE_S = 0.2
PATIENCE_S = 20
NOWHERE = "https://127.0.0.1:1"


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Its port."""
    with ExitStack() as owner:
        listeners = listen("127.0.0.1", 0, "", owner)
        config = uvicorn.Config(
            app,
            http=PromptProtocol,
            log_config=None,
            lifespan="off",
            timeout_keep_alive=LONGEST_IDLE_S,
            timeout_graceful_shutdown=1,
        )
        server = WebServer(config)
        task = asyncio.create_task(server.serve(sockets=listeners))
        try:
            yield listeners[0].getsockname()[1]
        finally:
            server.stop()
            await task


async def all_that_comes(port: int, *sent: bytes) -> bytes:
    """What is answered until the server hangs up. Each part is sent a while after the last."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(reader.read(-1))
        for part in sent:
            writer.write(part)
            await asyncio.wait([answer], timeout=PAUSE_S)
        said = await answer
        writer.close()
        return said


async def _length(request: Request) -> Response:
    return JSONResponse(len(await context.read_body(request)))


APP = Starlette(
    routes=[Route("/", _length, methods=["GET", "POST"])], exception_handlers=EXCEPTION_HANDLERS
)
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\n"


SLOW_HEAD = tuple(GET[n : n + 1] for n in range(len(GET)))


def test_a_connection_waits_for_a_request_only_so_long():
    assert len(SLOW_HEAD) * PAUSE_S > 2 * LONGEST_IDLE_S

    async def try_one(port: int, sent: tuple[bytes, ...], answers: int) -> None:
        # A slow head which came to its end would be answered too: no clock is needed.
        said = await all_that_comes(port, *sent)
        assert said.count(b"HTTP/1.1 200") == answers, sent

    async def run() -> None:
        async with serving(APP) as port, asyncio.TaskGroup() as group:
            for sent, answers in (
                ((), 0),
                (SLOW_HEAD, 0),
                ((GET,), 1),
                ((GET, *SLOW_HEAD), 1),
                ((GET, GET, GET), 3),
                ((POST, b"a", b"b", b"c"), 1),
            ):
                group.create_task(try_one(port, sent, answers))

    asyncio.run(run())


def test_a_request_which_does_not_go_on_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(context, "_LONGEST_PAUSE_S", 0.5)

    async def run() -> None:
        async with serving(APP) as port:
            said = await all_that_comes(port, POST, b"ab")
            assert said.startswith(b"HTTP/1.1 408")
            assert b"REQUEST_TIMEOUT" in said
            assert b"200" in await all_that_comes(port, POST, b"ab", b"c")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("local", "statuses"),
    [
        (
            "http://localhost:5000",
            {
                b"localhost:5000": 502,
                b"127.0.0.1": 502,
                b"[::1]:6000": 502,
                b"evil.example:5000": 421,
                b"localhost.evil.example": 421,
                b"[::1": 421,
                b"": 421,
            },
        ),
        ("http://10.0.0.1:5000", {b"laptop.example:5000": 502}),
    ],
)
def test_a_forwarder_on_the_loopback_has_no_other_name(local: str, statuses: dict[bytes, int]):
    async def run() -> None:
        trust = ssl.create_default_context()
        tunnel = Tunnel(trust, Address("127.0.0.1", 5001))
        head = b"GET /v2/version HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
        forwarder = Forwarder(NOWHERE, local, trust, tunnel)
        async with AsyncExitStack() as owner:
            owner.push_async_callback(forwarder.close)
            port = await owner.enter_async_context(serving(forwarder.app()))
            for host, status in statuses.items():
                said = await all_that_comes(port, head % host)
                assert said.startswith(b"HTTP/1.1 %d" % status), host

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_other_user_takes_what_clients_take_for_the_same_place(host: str):
    with ExitStack() as owner:
        places = [each.getsockname()[:2] for each in listen(host, 0, "", owner)]
        port = places[0][1]
        assert places == [("127.0.0.1", port), ("::1", port)]
    with (
        ExitStack() as owner,
        socket.create_server(("::1", port), family=socket.AF_INET6),
        pytest.raises(Problem, match=f"Cannot listen on ::1:{port}"),
    ):
        listen(host, port, "", owner)
