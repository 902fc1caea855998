# SPDX-License-Identifier: Apache-2.0
"""The manager's end of the connection to its spawner."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.host import packets
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.protocol import (
    Answer,
    Identify,
    LookUp,
    Reap,
    Release,
    Remains,
    Request,
    ScopeRecord,
    Spawn,
)

__all__ = ["Forked", "SpawnerClient", "Tenant"]

log = logging.getLogger(__name__)

_LOOK_UPS_AT_ONCE = 8
_CONNECT_PATIENCE_S = 20.0
_RETRY_INITIAL_S, _RETRY_MAXIMUM_S = 0.1, 1.0
_ANSWER_TIMEOUT_S = 15.0  # above the spawner's own deadline for a look-up


@dataclass(frozen=True)
class Forked:
    """A child behind its barrier; whoever has this closes ``pidfd``."""

    pid: int
    pidfd: int


@dataclass(frozen=True)
class Tenant:
    """Who was released into a scope, and whether that process is still there."""

    record: ScopeRecord
    is_alive: bool


class SpawnerClient:
    """Connects when there is something to ask, so that a restarted spawner is found again."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._numbers = itertools.count(1)
        self._channel: packets.PacketChannel | None = None
        self._connecting = asyncio.Lock()
        self._look_ups = asyncio.Semaphore(_LOOK_UPS_AT_ONCE)
        self._waiting: dict[int, asyncio.Future[tuple[Answer, list[int]]]] = {}

    def next_number(self) -> int:
        """The number of the next request."""
        return next(self._numbers)

    async def look_up(self, uname: str) -> LocalUser | None:
        """A local user by name; None where it is nobody."""
        async with self._look_ups:
            answer, _ = await self._ask(LookUp(number=self.next_number(), uname=uname))
        return answer.user

    async def spawn(self, request: Spawn, document: int, control: int) -> Forked:
        """Fork a child which waits at its barrier."""
        answer, descriptors = await self._ask(request, document, control)
        if answer.pid is None or len(descriptors) != 1:
            packets.Packet(b"", descriptors).close()
            raise Problem("SPAWNER_FAILED", "the spawner's answer lacks the child's pid")
        return Forked(answer.pid, descriptors[0])

    async def release(self, endpoint_id: UUID) -> None:
        """Open the barrier of the child of ``endpoint_id``."""
        await self._ask(Release(number=self.next_number(), endpoint_id=endpoint_id))

    async def wait_status(self, endpoint_id: UUID, pid: int) -> int | None:
        """How a child ended; None where this spawner does not know it."""
        number = self.next_number()
        answer, _ = await self._ask(Reap(number=number, endpoint_id=endpoint_id, pid=pid))
        return answer.wait_status

    async def identify(self, pid: int) -> Tenant | None:
        """Who lives in the scope around ``pid``, by the record which only root can write."""
        answer, _ = await self._ask(Identify(number=self.next_number(), pid=pid))
        return Tenant(answer.record, bool(answer.is_alive)) if answer.record else None

    async def remains(self, uid: int, endpoint_id: UUID) -> tuple[bool, int | None]:
        """Whether a user endpoint that ended has left work; and its wait status, if known."""
        number = self.next_number()
        answer, _ = await self._ask(Remains(number=number, uid=uid, endpoint_id=endpoint_id))
        return bool(answer.work), answer.wait_status

    def close(self) -> None:
        """End the connection; the spawner ends children still at their barrier."""
        if self._channel:
            self._channel.close()

    async def _ask(self, request: Request, *descriptors: int) -> tuple[Answer, list[int]]:
        channel = await self._connected()
        answered: asyncio.Future[tuple[Answer, list[int]]]
        answered = asyncio.get_running_loop().create_future()
        self._waiting[request.number] = answered
        try:
            channel.send(request.model_dump_json().encode(), descriptors)
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                answer, received = await answered
        except TimeoutError:
            raise Problem(
                "SPAWNER_TIMEOUT",
                f"no answer from the spawner within {_ANSWER_TIMEOUT_S:.0f} s",
                exit_status=ExitStatus.TEMPORARY,
            ) from None
        finally:
            self._waiting.pop(request.number, None)
        if answer.problem:
            packets.Packet(b"", received).close()
            # What failed the spawner itself, a user database which is away or a lack of processes,
            # passes; what it refuses does not.
            passes = answer.problem[0] == "SPAWNER_FAILED"
            status = ExitStatus.TEMPORARY if passes else ExitStatus.INTERNAL
            raise Problem(*answer.problem, status)
        return answer, received

    async def _connected(self) -> packets.PacketChannel:
        async with self._connecting:
            if self._channel is None or not self._channel.is_open:
                connection = await self._connect()
                self._channel = packets.PacketChannel(connection, self._answered, self._lost)
            return self._channel

    async def _connect(self) -> socket.socket:
        """Wait out a restart of the spawner, which takes a few seconds."""
        backoff = Backoff(_RETRY_INITIAL_S, _RETRY_MAXIMUM_S)
        deadline = time.monotonic() + _CONNECT_PATIENCE_S
        while True:
            try:
                return await packets.connect(self._path)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Problem(
                        "SPAWNER_UNREACHABLE",
                        f"cannot reach the spawner: {error}",
                        "see: systemctl status 'globus-compute-endpoint-spawner@*'",
                        ExitStatus.TEMPORARY,
                    ) from error
            await asyncio.sleep(backoff.next())

    def _answered(self, packet: packets.Packet) -> None:
        try:
            answer = Answer.model_validate_json(packet.data)
        except ValidationError as error:
            log.error("the spawner's answer is malformed: %s", error)
            packet.close()
            return
        waiting = self._waiting.get(answer.number)
        if waiting and not waiting.done():
            waiting.set_result((answer, packet.descriptors))
        else:
            packet.close()

    def _lost(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(
                    Problem(
                        "SPAWNER_LOST",
                        "the spawner went away while it was asked",
                        exit_status=ExitStatus.TEMPORARY,
                    )
                )
