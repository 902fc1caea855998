# SPDX-License-Identifier: Apache-2.0
"""Knowing whether an answer was written out.

A client which did not get the answer to a submit repeats it, and must get the same task ids. One
which makes the same request twice, and gets both answers, wants two sets of tasks. So identical
requests take turns, and a turn lasts until its answer has been written out or the client is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

__all__ = ["AnsweredResponse", "Turns"]


class Turns:
    """Turns among identical requests, known by their fingerprints."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._interested: dict[str, int] = {}

    @asynccontextmanager
    async def take(self, fingerprint: str) -> AsyncIterator[None]:
        """Wait until no identical request is being dealt with."""
        lock = self._locks.setdefault(fingerprint, asyncio.Lock())
        self._interested[fingerprint] = self._interested.get(fingerprint, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._interested[fingerprint] -= 1
            if not self._interested[fingerprint]:
                del self._interested[fingerprint], self._locks[fingerprint]


class AnsweredResponse(Response):
    """A response that is made and sent within one turn.

    ``prepare`` makes the document. ``when_written`` is called with it once it was handed over to
    a client that was still there.
    """

    def __init__(
        self,
        turns: Turns,
        fingerprint: str,
        prepare: Callable[[], Awaitable[dict[str, Any]]],
        when_written: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__()
        self._turns = turns
        self._fingerprint = fingerprint
        self._prepare = prepare
        self._when_written = when_written

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._turns.take(self._fingerprint):
            response = JSONResponse(await self._prepare())
            if await _write_out(response, Request(scope, receive), send):
                await self._when_written()


async def _write_out(response: Response, request: Request, send: Send) -> bool:
    """Send ``response``; false if the client went away before the end."""
    if await request.is_disconnected():
        return False
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    if await request.is_disconnected():
        return False
    # This one waits until what was sent has left the process but for a small rest.
    await send({"type": "http.response.body", "body": b""})
    return True
