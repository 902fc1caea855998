# SPDX-License-Identifier: Apache-2.0
"""The manager's socket: one gateway at a time, and only its own unit's."""

from __future__ import annotations

import asyncio
import logging
import pwd
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import UUID

from pydantic import ValidationError

from globus_compute_endpoint.host import packets
from globus_compute_endpoint.manager.protocol import (
    Answered,
    Ended,
    Failed,
    FromManager,
    ProblemFields,
    Start,
    Status,
    pack,
    parse_from_gateway,
)

__all__ = ["GATEWAY_ACCOUNT", "GatewayLink", "GatewayUser"]

log = logging.getLogger(__name__)

GATEWAY_ACCOUNT = "globus-compute-gateway"
_MAX_UNTOLD = 1024


class GatewayUser(Protocol):
    """What the manager does with the gateway's frames."""

    def start(self, frame: Start, blob: bytes) -> None:
        """Carry out a start command, answer later."""

    def status(self, frame: Status) -> None:
        """Take note of how the gateway fares."""

    def failed(self, frame: Failed) -> None:
        """The gateway gives up."""

    def gateway_lost(self) -> None:
        """The connection is gone; another may come."""


class GatewayLink:
    """Listens, checks who connects, and carries frames."""

    def __init__(
        self,
        path: Path,
        is_own_gateway: Callable[[int], asyncio.Future[bool] | asyncio.Task[bool]],
        user: GatewayUser,
    ) -> None:
        account = pwd.getpwnam(GATEWAY_ACCOUNT)  # a system account: in /etc/passwd, not in LDAP
        self._uid = account.pw_uid
        self._is_own_gateway = is_own_gateway
        self._user = user
        self._channel: packets.PacketChannel | None = None
        self._untold: dict[UUID, tuple[Ended, bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._listener = packets.listen(path, 0o660, account.pw_gid)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Stop listening and hang up."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._channel:
            self._channel.close()

    def answer(self, number: int, problem: ProblemFields | None) -> None:
        """The start command ``number`` was carried out, or refused."""
        self._send(Answered(number=number, problem=problem))

    def tell_end(self, endpoint_id: UUID, problem: ProblemFields, blob: bytes) -> None:
        """A user endpoint ended and could not say why; kept until there is a gateway to tell."""
        frame = Ended(endpoint_id=endpoint_id, problem=problem)
        if self._channel and self._channel.is_open:
            self._send(frame, blob)
        elif len(self._untold) < _MAX_UNTOLD:
            self._untold[endpoint_id] = (frame, blob)

    def _send(self, frame: FromManager, blob: bytes = b"") -> None:
        if self._channel:
            self._channel.send(pack(frame, blob))

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        task = self._loop.create_task(self._admit(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _admit(self, connection: socket.socket) -> None:
        peer = packets.peer_of(connection)
        admitted = False
        try:
            admitted = peer.uid == self._uid and await self._is_own_gateway(peer.pid)
        finally:
            if not admitted:
                connection.close()
        if not admitted:
            log.error("refused a connection of process %d, uid %d", peer.pid, peer.uid)
            return
        if self._channel:
            self._channel.close()
        self._channel = packets.PacketChannel(connection, self._read, self._lost)
        for frame, blob in self._untold.values():
            self._send(frame, blob)
        self._untold.clear()

    def _lost(self) -> None:
        self._channel = None
        self._user.gateway_lost()

    def _read(self, packet: packets.Packet) -> None:
        packet.close()
        try:
            frame, blob = parse_from_gateway(packet.data)
        except ValidationError as error:
            log.error("the gateway sent a malformed frame, hanging up: %s", error)
            if self._channel:
                self._channel.close()
            return
        match frame:
            case Start():
                self._user.start(frame, blob)
            case Status():
                self._user.status(frame)
            case Failed():
                self._user.failed(frame)
