# SPDX-License-Identifier: Apache-2.0
"""Asking a process on this machine a question over a socket, and answering.

The question is one frame, the answer any number of them, and then the connection's end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from globus_compute_endpoint.host import packets

__all__ = ["QuestionSocket", "ask", "listen_abstract"]

log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S = 5.0
_SEND_TIMEOUT_S = 10.0  # for all of an answer
_MAX_ASKING = 16
_ROOT = 0


def listen_abstract(name: str) -> socket.socket:
    """Listen at an abstract address, which is gone with the last descriptor; see unix(7).

    Raises OSError where that is taken.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(f"\0{name}")
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


class QuestionSocket:
    """Answers one question, for processes of our own user and root's alone.

    ``answer`` gets as long as it needs; who asks has a time-out of their own.
    """

    def __init__(
        self,
        listener: socket.socket,
        question: bytes,
        answer: Callable[[], Awaitable[Sequence[bytes]]],
    ) -> None:
        self._question = question
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = listener
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Stop listening; what is under way is given up, its client told so by the hang-up."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            log.warning("a question could not be accepted: %s", error)
            return
        connection.setblocking(False)
        if len(self._tasks) >= _MAX_ASKING:
            connection.close()
            return
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            peer = packets.peer_of(connection)
            if peer.uid not in (os.geteuid(), _ROOT):
                log.error("refused to answer process %d, uid %d", peer.pid, peer.uid)
                return
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    asked = await self._loop.sock_recv(connection, len(self._question) + 1)
                if asked != self._question:
                    return
                frames = await self._answer()
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    for frame in frames:
                        await self._loop.sock_sendall(connection, frame)
            except OSError as error:  # TimeoutError is one
                log.warning("who asked %r went away: %s", self._question.decode(), error)


def ask(address: Path | str, question: bytes, seconds: float) -> list[bytes]:
    """Return the frames of an answer. A ``str`` is an abstract address.

    Raises OSError where nobody listens there, where it is another user's than ours and root's, or
    where the answer takes longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    name = f"\0{address}" if isinstance(address, str) else str(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(seconds)
        connection.connect(name)
        if packets.peer_of(connection).uid not in (os.geteuid(), _ROOT):
            raise PermissionError(f"{address} is another user's")
        connection.sendall(question)
        frames: list[bytes] = []
        while True:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            if not (frame := connection.recv(packets.MAX_FRAME)):
                return frames
            frames.append(frame)
