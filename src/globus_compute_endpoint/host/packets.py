# SPDX-License-Identifier: Apache-2.0
"""SOCK_SEQPACKET on an event loop: whole frames, with descriptors, bounded in size.

asyncio's streams know neither packets nor descriptors, so this reads with ``loop.add_reader``.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "MAX_FRAME",
    "Packet",
    "PacketChannel",
    "Peer",
    "connect",
    "listen",
    "peer_of",
    "receive",
]

MAX_FRAME = 160 * 1024  # below the default socket buffer (net.core.wmem_default, 208 KiB)
_MAX_DESCRIPTORS = 4
_CONNECT_TIMEOUT_S = 5.0
_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Peer:
    """Who connected, as the kernel knows it; see SO_PEERCRED in unix(7)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Packet:
    """One frame and the descriptors which came with it; whoever takes it closes them."""

    data: bytes
    descriptors: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def peer_of(connection: socket.socket) -> Peer:
    """The credentials of the process which connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


def listen(path: Path, mode: int, group: int | None = None) -> socket.socket:
    """Listen on a fresh socket at ``path``, never reachable by more than ``mode`` allows."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)
    listener.listen(8)
    return listener


async def connect(path: Path) -> socket.socket:
    """Connect to the socket at ``path``.

    Raises OSError where nobody listens, TimeoutError where nobody accepts within 5 s.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def receive(connection: socket.socket) -> Packet | None:
    """Read one frame from a non-blocking socket; None at its end.

    Raises BlockingIOError where there is none yet, ValueError for one which does not fit.
    """
    space = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, flags, _ = connection.recvmsg(MAX_FRAME, space, socket.MSG_CMSG_CLOEXEC)
    numbers = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
    packet = Packet(data, list(numbers))
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        packet.close()
        raise ValueError("a frame larger than its limit")
    if not data:  # our protocols have no empty frames
        packet.close()
        return None
    return packet


class PacketChannel:
    """One connection on the running loop: calls back for each frame, and once at its end.

    A peer which does not read is cut off once ``max_queued`` frames wait for it, so that it can
    hold up neither the loop nor our memory.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_packet: Callable[[Packet], None],
        on_end: Callable[[], None],
        max_queued: int = 1024,
    ) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._on_packet = on_packet
        self._on_end = on_end
        self._max_queued = max_queued
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(connection, self._read)

    @property
    def is_open(self) -> bool:
        """False once either side has closed it."""
        return self._open

    def send(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Queue a frame; its descriptors are duplicated, the caller keeps its own."""
        if not self._open:
            return
        if len(data) > MAX_FRAME:
            raise ValueError(f"a frame of {len(data)} bytes, more than {MAX_FRAME}")
        self._queue.append((data, [os.dup(number) for number in descriptors]))
        self._write()
        if len(self._queue) > self._max_queued:
            self.close()

    def close(self) -> None:
        """Close it, telling ``on_end`` if this is the first we hear of an end."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self.connection)
        self._loop.remove_writer(self.connection)
        for _, descriptors in self._queue:
            Packet(b"", descriptors).close()
        self._queue.clear()
        self.connection.close()
        self._on_end()

    def _read(self) -> None:
        try:
            packet = receive(self.connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet = None
        if packet is None:
            self.close()
        else:
            self._on_packet(packet)

    def _write(self) -> None:
        while self._queue:
            data, descriptors = self._queue[0]
            try:
                socket.send_fds(self.connection, [data], descriptors)
            except BlockingIOError:
                self._loop.add_writer(self.connection, self._write)
                return
            except OSError:
                self.close()
                return
            self._queue.popleft()
            Packet(b"", descriptors).close()
        self._loop.remove_writer(self.connection)
