# SPDX-License-Identifier: Apache-2.0
"""uvicorn, as part of a program that has more to do."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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


def listen(host: str, port: int, hint: str, owner: ExitStack) -> list[socket.socket]:
    """Listening sockets, which ``owner`` closes; raises Problem with ``hint`` if there are none.

    The loopback of IPv4 comes with that of IPv6: clients look for ``localhost`` there first, and
    another user of this machine could wait for them, and for their secrets.
    """
    sockets = [_listener(host, port, hint, owner)]
    if host in ("127.0.0.1", "localhost") and _has_ipv6_loopback():
        sockets.append(_listener("::1", sockets[0].getsockname()[1], hint, owner))
    return sockets


def _listener(host: str, port: int, hint: str, owner: ExitStack) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return owner.enter_context(
            socket.create_server((host, port), family=family, backlog=_BACKLOG)
        )
    except OSError as error:
        raise Problem(
            f"Cannot listen on {host}:{port}: {error.strerror}", hint, ExitStatus.UNAVAILABLE
        ) from error


def _has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
