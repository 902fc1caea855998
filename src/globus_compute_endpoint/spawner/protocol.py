# SPDX-License-Identifier: Apache-2.0
"""What the manager may ask of the spawner: six requests, each with one answer.

One JSON object a packet. The connection is between two root processes of one endpoint; yet the
spawner checks each request again, because the manager's sandbox is the weaker wall.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from globus_compute_endpoint.host.privileges import LocalUser

__all__ = [
    "Answer",
    "Identify",
    "LookUp",
    "Reap",
    "Release",
    "Remains",
    "Request",
    "ScopeRecord",
    "Spawn",
    "parse_request",
    "scope_name",
]


class _Frame(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Request(_Frame):
    number: int


class LookUp(_Request):
    """Ask the passwd and group databases, in a child with a deadline."""

    operation: Literal["look-up"] = "look-up"
    uname: Annotated[str, Field(min_length=1, max_length=256)]


class Spawn(_Request):
    """Fork a child for a user endpoint, which waits at its barrier.

    Descriptors: the launch document (a sealed memory file) and the child's end of the control
    socket. Answer: its pid, and its pidfd as a descriptor.
    """

    operation: Literal["spawn"] = "spawn"
    endpoint_id: UUID
    name: Annotated[str, Field(max_length=128)]
    user: LocalUser
    minimum_uid: Annotated[int, Field(ge=1)]
    no_new_privs: bool = False
    debug: bool = False


class Release(_Request):
    """Note in the scope who lives there, then open the barrier."""

    operation: Literal["release"] = "release"
    endpoint_id: UUID


class Reap(_Request):
    """How a child ended: its wait status, or None where the spawner does not know it."""

    operation: Literal["reap"] = "reap"
    endpoint_id: UUID
    pid: int


class Identify(_Request):
    """What :class:`Release` noted in the cgroup of the scope around a process.

    ``is_alive`` says whether the process that was released is still there.
    """

    operation: Literal["identify"] = "identify"
    pid: int


class Remains(_Request):
    """Whether a user endpoint that ended has left work; and how it ended, if this spawner knows."""

    operation: Literal["remains"] = "remains"
    uid: Annotated[int, Field(ge=1, le=2**32 - 2)]
    endpoint_id: UUID


Request = LookUp | Spawn | Release | Reap | Identify | Remains


class Answer(_Frame):
    """One answer to one request; ``problem`` where it was refused."""

    number: int
    problem: tuple[str, str, str] | None = None
    user: LocalUser | None = None
    pid: int | None = None
    wait_status: int | None = None
    record: ScopeRecord | None = None
    is_alive: bool | None = None
    work: bool | None = None


class ScopeRecord(_Frame):
    """Who lives in a scope; kept in its cgroup's ``trusted.*`` attribute."""

    endpoint_id: UUID
    manager: str
    uid: int
    pid: int
    start_time: int


Answer.model_rebuild()

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="operation")])


def parse_request(data: bytes) -> Request:
    """Raises pydantic's ValidationError."""
    return _REQUEST.validate_json(data)


def scope_name(endpoint_id: UUID) -> str:
    """The unit in which a user endpoint lives."""
    return f"globus-compute-uep-{endpoint_id}.scope"
