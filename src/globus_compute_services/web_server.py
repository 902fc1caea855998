# SPDX-License-Identifier: Apache-2.0
"""uvicorn, as part of a program that has more to do."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from globus_compute_services.problem import ExitStatus, Problem

__all__ = ["PromptProtocol", "WebServer", "listen"]

_BACKLOG = 512


class PromptProtocol(H11Protocol):
    """A connection which a client can hold on to, idle, for ``timeout_keep_alive`` at most.

    uvicorn means by that an idle time after an answer, which any byte ends. Here all of the first
    request's head, or of the next one's, has to come within it.

    At a stop, an idle connection is ended at once. With TLS it would wait for the client's goodbye,
    and clients do not read from connections that they keep for later.
    """

    _request_due = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn too
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.timeout_keep_alive_task is None and not self._is_answering:
            self._wait_for_request()

    def on_response_complete(self) -> None:
        self._request_due = self.loop.time() + self.timeout_keep_alive
        super().on_response_complete()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_request(self) -> None:
        self._request_due = self.loop.time() + self.timeout_keep_alive
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(
            self._request_due, self.timeout_keep_alive_handler
        )

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()


class WebServer(uvicorn.Server):
    """uvicorn's server, which leaves the process alive to finish what else is to be finished."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self.reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Take no more requests, and return once those under way are answered."""
        self.should_exit = True

    def reload(self) -> None:
        """SIGHUP: where there is nothing to read again, a terminal that was closed."""
        self.stop()


def listen(host: str, port: int, hint: str) -> socket.socket:
    """A listening socket; raises Problem with ``hint`` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Problem(
            f"Cannot listen on {host}:{port}: {error.strerror}", hint, ExitStatus.UNAVAILABLE
        ) from error
