# SPDX-License-Identifier: Apache-2.0
"""The conversation with the manager: one JSON object a frame, over a SEQPACKET pair.

Behind the object of a ``credentials`` frame come a newline and a later start command's options
and credentials, as the gateway packed them: the manager hands them on unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.figures import STATUS_LIMIT, Report, State
from globus_compute_endpoint.host.packets import peer_of

__all__ = ["AskReport", "Control", "Credentials", "Drain", "Frame", "Stop"]

log = logging.getLogger(__name__)

FRAME_LIMIT = 256 * 1024  # more than the manager ever sends


class Credentials(BaseModel):
    """Go on with these."""

    type: Literal["credentials"]
    amqp_creds: UserEndpointQueues


class Drain(BaseModel):
    """Take no more tasks; end when those that are here are done."""

    type: Literal["drain"]


class Stop(BaseModel):
    """End now."""

    type: Literal["stop"]


class AskReport(BaseModel):
    """Someone wants to know how it fares."""

    type: Literal["report"]


Order = Credentials | Drain | Stop
Frame = Annotated[Order | AskReport, Field(discriminator="type")]
_frames: TypeAdapter[Order | AskReport] = TypeAdapter(Frame)


class Control:
    """Our end of the conversation. Its end is not ours: the manager may be restarting.

    ``listener``: where a manager's successor can take the conversation up.
    """

    def __init__(
        self, conversation: socket.socket | None, listener: socket.socket | None = None
    ) -> None:
        self._socket = conversation
        self._listener = listener
        self._state: State = "starting"
        self._outstanding = 0
        self._progress = False
        self._handle: Callable[[Order], None] | None = None
        self._report: Callable[[State], Report] | None = None

    def start(self, handle: Callable[[Order], None], report: Callable[[State], Report]) -> None:
        """Call ``handle`` on the event loop for each order, and ``report`` when that is asked."""
        self._handle = handle
        self._report = report
        if self._socket is not None:
            self._listen_to(self._socket)
        if self._listener is not None:
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def tell(self, state: State, outstanding: int) -> None:
        """Tell the manager how we are."""
        self._state, self._outstanding = state, outstanding
        self._send()

    def refresh(self, outstanding: int) -> None:
        """Tell the last state again, with a new figure."""
        self.tell(self._state, outstanding)

    def note_progress(self) -> None:
        """Tell the manager, once, that with us tasks come to an end, if only to a bad one."""
        if not self._progress:
            self._progress = True
            self.refresh(self._outstanding)

    def report(self) -> Report:
        """Return what is to be told of us, once :meth:`start` was called."""
        assert self._report is not None
        return self._report(self._state)

    def close(self) -> None:
        """End the conversation, for good."""
        self._hang_up()
        if self._listener is not None:
            _close(self._listener)
            self._listener = None

    def _send(self, report: Report | None = None) -> None:
        if self._socket is None:
            return
        status: dict[str, object] = {
            "type": "status",
            "state": self._state,
            "outstanding": self._outstanding,
            "progress": self._progress,
        }
        data = _packed(status, report)
        if report is not None and len(data) > STATUS_LIMIT:
            data = _packed(status, report.without_jobs())
        # A manager which does not listen gets the next one.
        with contextlib.suppress(OSError):
            self._socket.send(data, socket.MSG_DONTWAIT)

    def _hang_up(self) -> None:
        if self._socket is not None:
            _close(self._socket)
            self._socket = None

    def _listen_to(self, conversation: socket.socket) -> None:
        conversation.setblocking(False)
        asyncio.get_running_loop().add_reader(conversation, self._readable)

    def _accept(self) -> None:
        """Talk to the manager which came last; anyone could connect, but it is of our own user."""
        assert self._listener is not None
        try:
            conversation, _ = self._listener.accept()
        except OSError as error:
            log.warning("A manager could not be answered: %s", error)
            return
        if peer_of(conversation).uid != os.getuid():
            conversation.close()
            return
        log.info("A manager has taken up the conversation")
        self._hang_up()
        self._socket = conversation
        self._listen_to(conversation)
        self.tell(self._state, self._outstanding)

    def _readable(self) -> None:
        assert self._socket is not None
        assert self._handle is not None
        try:
            data = self._socket.recv(FRAME_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            log.info("The manager has closed the conversation; going on without it")
            self._hang_up()
            return
        try:
            frame = _parse(data)
        except ValueError as error:
            # Not the error itself: the frame may hold passwords.
            what = _fields(error) if isinstance(error, ValidationError) else "not JSON"
            log.warning("A frame from the manager was not understood: %s", what)
            return
        if isinstance(frame, AskReport):
            self._send(self.report())
        else:
            self._handle(frame)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(RuntimeError):  # before the event loop, or after it
        asyncio.get_running_loop().remove_reader(connection)
    connection.close()


def _packed(status: dict[str, object], report: Report | None) -> bytes:
    told = {} if report is None else {"report": report.model_dump(mode="json", exclude_none=True)}
    return json.dumps(status | told).encode()


def _parse(data: bytes) -> Order | AskReport:
    head, _, blob = data.partition(b"\n")
    if not blob:
        return _frames.validate_json(head)
    return _frames.validate_python({**from_json(blob), **from_json(head)})


def _fields(error: ValidationError) -> str:
    return "; ".join(f"{item['loc']}: {item['type']}" for item in error.errors())
