# SPDX-License-Identifier: Apache-2.0
"""The socket pair between manager and user endpoint: down orders, up a small status.

What comes up is written by the user's own process and parsed as hostile: a fixed model, a bound on
the frame, and nothing is done with it but to remember the last state.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from globus_compute_endpoint.figures import STATUS_LIMIT, Report, State
from globus_compute_endpoint.host import packets

__all__ = ["Control", "UserEndpointStatus"]

log = logging.getLogger(__name__)

_LAST_WORD_TIMEOUT_S = 1.0
_MAX_QUEUED_ORDERS = 8  # one that does not read them is cut off, and goes on without us


class UserEndpointStatus(BaseModel):
    """The last word of a user endpoint about itself: a claim."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["status"]
    state: State
    outstanding: Annotated[int, Field(ge=0, le=2**53)] = 0
    progress: bool = False  # whether any task has ended, or come nearer to its last attempt
    report: Report | None = None  # where we have asked for one


class Control:
    """The manager's end."""

    def __init__(self, endpoint_id: UUID, connection: socket.socket) -> None:
        self._endpoint_id = endpoint_id
        self.last = UserEndpointStatus(type="status", state="starting")
        self.has_run = False  # whether it has ever said so
        self.has_progressed = False
        self.changed: Callable[[], None] = lambda: None
        self._report: asyncio.Future[Report | None] | None = None
        self._over = asyncio.Event()
        self._channel = packets.PacketChannel(
            connection, self._read, self._ended, max_queued=_MAX_QUEUED_ORDERS
        )

    @property
    def is_open(self) -> bool:
        """Whether there is anyone at the other end."""
        return self._channel.is_open

    def renew_credentials(self, blob: bytes) -> None:
        """Hand down a later start command's blob, unread."""
        self._channel.send(b'{"type":"credentials"}\n' + blob)

    def drain(self) -> None:
        """Ask it to take no more tasks, and to end when those which run are done."""
        self._channel.send(json.dumps({"type": "drain"}).encode())

    def stop(self) -> None:
        """Ask it to end now."""
        self._channel.send(json.dumps({"type": "stop"}).encode())

    async def report(self, seconds: float) -> Report | None:
        """Ask it how it fares; None where it does not answer in time.

        One which owes us an answer is not asked again.
        """
        if not self._channel.is_open:
            return None
        answer = self._report
        if answer is None:
            answer = self._report = asyncio.get_running_loop().create_future()
            self._channel.send(b'{"type":"report"}')  # which may find that it has hung up
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(answer), seconds)
        return None

    async def last_state(self) -> str:
        """What it said last, once its process has ended: some of that may not be read yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_TIMEOUT_S):
                await self._over.wait()
        return self.last.state

    def close(self) -> None:
        """Close our end."""
        self._channel.close()

    def fileno(self) -> int:
        """For the descriptor store."""
        return self._channel.connection.fileno()

    def _read(self, packet: packets.Packet) -> None:
        packet.close()
        try:
            if len(packet.data) > STATUS_LIMIT:
                raise ValueError(f"a status of {len(packet.data)} bytes")
            status = UserEndpointStatus.model_validate_json(packet.data)
        except (ValidationError, ValueError) as error:
            log.warning(
                "user endpoint %s sent no status: %s",
                self._endpoint_id,
                str(error).splitlines()[0],
                extra={"GC_ENDPOINT_ID": str(self._endpoint_id)},
            )
            self._channel.close()
            return
        self.has_run |= status.state in ("running", "draining")
        self.has_progressed |= status.progress
        before, self.last = self.last, status.model_copy(update={"report": None})
        if status.report is not None:
            self._answer(status.report)
        if before.state != status.state:
            self.changed()

    def _answer(self, report: Report | None) -> None:
        if self._report is not None:
            self._report.set_result(report)
            self._report = None

    def _ended(self) -> None:
        self._over.set()
        self._answer(None)
        log.debug("user endpoint %s closed its control socket", self._endpoint_id)
