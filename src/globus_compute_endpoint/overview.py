# SPDX-License-Identifier: Apache-2.0
"""What a running endpoint answers when ``status`` asks it: how its user endpoints fare.

A single user's endpoint is its own, and only, user endpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from globus_compute_endpoint.figures import Report, State
from globus_compute_endpoint.host.questions import QuestionSocket, ask, listen_abstract
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Overview", "UserEndpointView", "answering_status", "ask_status", "status_socket"]

log = logging.getLogger(__name__)

_QUESTION = b"status"
_TIMEOUT_S = 10.0
_Count = Annotated[int, Field(ge=0)]


class UserEndpointView(BaseModel):
    """A user endpoint. ``state`` is what it said last, ``report`` what it answers now, if it does.

    ``identity`` is whose functions it runs, as ``uid`` in ``unit``, whose ``memory`` is in bytes.
    """

    model_config = ConfigDict(frozen=True)

    endpoint_id: UUID
    uid: _Count
    pid: _Count
    state: State
    identity: UUID | None = None
    unit: str | None = None
    memory: _Count | None = None
    processes: _Count | None = None
    report: Report | None = None


class _Head(BaseModel):
    text: str


class Overview(BaseModel):
    """All of an endpoint, and ``text`` on it as a whole."""

    model_config = ConfigDict(frozen=True)

    text: str
    user_endpoints: tuple[UserEndpointView, ...]

    @classmethod
    def of_one(cls, endpoint_id: str, report: Report) -> Overview:
        """Return the overview of a single user's endpoint, which this process is."""
        view = UserEndpointView(
            endpoint_id=UUID(endpoint_id),
            uid=os.getuid(),
            pid=report.pid,
            state=report.state,
            report=report,
        )
        return cls(text="", user_endpoints=(view,))


def status_socket(
    listener: socket.socket, overview: Callable[[], Awaitable[Overview]]
) -> QuestionSocket:
    """Answer who asks at ``listener`` with overviews."""

    async def frames() -> Sequence[bytes]:
        shown = await overview()
        told = (_Head(text=shown.text), *shown.user_endpoints)
        return [each.model_dump_json(exclude_none=True).encode() for each in told]

    return QuestionSocket(listener, _QUESTION, frames)


@contextlib.contextmanager
def answering_status(
    address: str | None, overview: Callable[[], Awaitable[Overview]]
) -> Iterator[None]:
    """Answer at an abstract address; nobody without one, or where it is taken."""
    with contextlib.ExitStack() as stack:
        if address is not None:
            try:
                stack.callback(status_socket(listen_abstract(address), overview).close)
            except OSError as error:
                log.warning("'status' cannot be answered: %s", error)
        yield


def ask_status(address: Path | str) -> Overview:
    """Ask an endpoint at its socket, or abstract address.

    Raises:
        Problem: it does not answer (TEMPORARY).
    """
    try:
        head, *views = ask(address, _QUESTION, _TIMEOUT_S)
        return Overview(
            text=_Head.model_validate_json(head).text,
            user_endpoints=tuple(UserEndpointView.model_validate_json(each) for each in views),
        )
    except (OSError, ValueError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
        raise Problem(
            "NO_STATUS",
            f"the endpoint's process does not tell how it is: {what}",
            "it may be starting, stopping, or of an earlier version; see its log",
            ExitStatus.TEMPORARY,
        ) from error
