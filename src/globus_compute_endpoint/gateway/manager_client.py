# SPDX-License-Identifier: Apache-2.0
"""The gateway's end of the connection to its manager, made anew whenever the manager restarts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.host import packets
from globus_compute_endpoint.manager.protocol import (
    Answered,
    Ended,
    FromGateway,
    ProblemFields,
    Start,
    Status,
    pack,
    parse_from_manager,
)

__all__ = ["ManagerClient", "ManagerUser"]

log = logging.getLogger(__name__)

_RETRY_INITIAL_S, _RETRY_MAXIMUM_S = 0.1, 2.0  # a local socket: cheap, and soon back

OnAnswer = Callable[[ProblemFields | None], None]


class ManagerUser(Protocol):
    """What the gateway does with what the manager tells unasked."""

    def manager_up(self) -> None:
        """The connection stands."""

    def ended(self, frame: Ended, blob: bytes) -> None:
        """A user endpoint died without a word."""


class ManagerClient:
    """Hands start commands over, and again after a reconnection until they are answered.

    That is safe: a manager which started it already takes the second for fresh credentials.
    """

    def __init__(self, path: Path, user: ManagerUser) -> None:
        self._path = path
        self._user = user
        self._numbers = itertools.count(1)
        self._channel: packets.PacketChannel | None = None
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._unanswered: dict[int, tuple[bytes, OnAnswer]] = {}
        self._status: Status | None = None

    @property
    def is_up(self) -> bool:
        """Whether a manager is there."""
        return self._channel is not None and self._channel.is_open

    async def wait_up(self) -> None:
        """Return once a manager is there."""
        await self._up.wait()

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        backoff = Backoff(_RETRY_INITIAL_S, _RETRY_MAXIMUM_S)
        try:
            while True:
                try:
                    connection = await packets.connect(self._path)
                except OSError as error:
                    log.debug("no manager yet: %s", error)
                    await asyncio.sleep(backoff.next())
                    continue
                backoff.reset()
                self._lost.clear()
                self._channel = packets.PacketChannel(connection, self._read, self._lost.set)
                self._repeat()
                self._up.set()
                self._user.manager_up()
                await self._lost.wait()
                self._up.clear()
                log.warning("the manager hung up, connecting again")
                await asyncio.sleep(backoff.next())  # one that refuses us would hang up at once
        finally:
            if self._channel:
                self._channel.close()

    def start(self, frame: Start, blob: bytes, on_answer: OnAnswer) -> None:
        """Hand a start command over; ``on_answer`` is called once with the refusal or None.

        Raises ValueError where it does not fit a frame.
        """
        packet = pack(frame, blob)
        if len(packet) > packets.MAX_FRAME:
            raise ValueError(f"a start command of {len(packet)} bytes")
        self._unanswered[frame.number] = (packet, on_answer)
        self._send(packet)

    def next_number(self) -> int:
        """The number of the next start."""
        return next(self._numbers)

    def forget_starts(self) -> None:
        """The broker will deliver again what was not acknowledged: expect no answers."""
        self._unanswered.clear()

    def show(self, status: Status) -> None:
        """Tell the manager how we fare, and each manager to come."""
        self._status = status
        self._send(pack(status))

    def tell(self, frame: FromGateway) -> None:
        """Send a frame if a manager is there."""
        self._send(pack(frame))

    def _repeat(self) -> None:
        if self._status:
            self._send(pack(self._status))
        for packet, _ in self._unanswered.values():
            self._send(packet)

    def _send(self, packet: bytes) -> None:
        if self._channel:
            self._channel.send(packet)

    def _read(self, packet: packets.Packet) -> None:
        packet.close()
        try:
            frame, blob = parse_from_manager(packet.data)
        except ValidationError as error:
            log.error("the manager sent a malformed frame: %s", error)
            return
        match frame:
            case Answered():
                with contextlib.suppress(KeyError):
                    _, on_answer = self._unanswered.pop(frame.number)
                    on_answer(frame.problem)
            case Ended():
                self._user.ended(frame, blob)
