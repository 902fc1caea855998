# SPDX-License-Identifier: Apache-2.0
"""What gateway and manager say to one another: the one frame that comes from outside.

A packet is one JSON object, a newline, and an opaque blob (options, runtime, credentials of the
user endpoint) which the manager never opens; only the user's own process does. See "Promises" in
docs/architecture.md.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = [
    "Answered",
    "Ended",
    "Failed",
    "FromGateway",
    "FromManager",
    "Identity",
    "ProblemFields",
    "Start",
    "Status",
    "pack",
    "parse_from_gateway",
    "parse_from_manager",
]

_Text = Annotated[str, Field(max_length=1024)]
_Short = Annotated[str, Field(max_length=320)]
_MAX_IDENTITIES = 64


class _Frame(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Frame):
    """One of a person's linked identities, as Globus Auth describes it."""

    sub: UUID
    username: _Short
    email: _Short | None = None
    name: _Short | None = None
    organization: _Short | None = None
    identity_provider: _Short | None = None
    identity_type: _Short | None = None
    status: _Short | None = None

    def as_globus_auth(self) -> dict[str, str]:
        """As globus-identity-mapping wants it: ``id``, and no empty fields."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return {**fields, "id": str(self.sub)}


class ProblemFields(_Frame):
    """A Problem on its way between processes."""

    code: _Short
    message: Annotated[str, Field(max_length=8192)]
    hint: _Text = ""
    exit_status: int = ExitStatus.INTERNAL

    @classmethod
    def of(cls, problem: Problem) -> ProblemFields:
        """Cut to what fits a frame."""
        return cls(
            code=problem.code[:320],
            message=problem.message[:8192],
            hint=problem.hint[:1024],
            exit_status=problem.exit_status,
        )

    def as_problem(self) -> Problem:
        """With what the other side said; a status that nobody knows is an internal one."""
        known = {int(status) for status in ExitStatus}
        status = ExitStatus(self.exit_status if self.exit_status in known else ExitStatus.INTERNAL)
        return Problem(self.code, self.message, self.hint, status)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Start(_Frame):
    """Gateway → manager: start this user endpoint, or give it fresh credentials if it runs."""

    type: Literal["start"] = "start"
    number: int
    endpoint_id: UUID
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    effective_identity: UUID
    identities: Annotated[tuple[Identity, ...], Field(max_length=_MAX_IDENTITIES)]


class Status(_Frame):
    """Gateway → manager: how things stand on the network's side."""

    type: Literal["status"] = "status"
    ready: bool
    text: Annotated[_Text, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
    endpoint_id: UUID | None = None


class Failed(_Frame):
    """Gateway → manager: a refusal that no retry mends; the unit is to fail with this status."""

    type: Literal["failed"] = "failed"
    problem: ProblemFields


class Answered(_Frame):
    """Manager → gateway: the start command may be acknowledged. With a problem: it was refused."""

    type: Literal["answered"] = "answered"
    number: int
    problem: ProblemFields | None = None


class Ended(_Frame):
    """Manager → gateway: a user endpoint ended without having told anyone why.

    The blob that it was started with comes behind, for the credentials to tell the services with.
    """

    type: Literal["ended"] = "ended"
    endpoint_id: UUID
    problem: ProblemFields


FromGateway = Start | Status | Failed
FromManager = Answered | Ended

_FROM_GATEWAY: TypeAdapter[FromGateway] = TypeAdapter(
    Annotated[FromGateway, Field(discriminator="type")]
)
_FROM_MANAGER: TypeAdapter[FromManager] = TypeAdapter(
    Annotated[FromManager, Field(discriminator="type")]
)


def pack(frame: FromGateway | FromManager, blob: bytes = b"") -> bytes:
    """A frame and its blob as one packet."""
    head = json.dumps(frame.model_dump(mode="json"), ensure_ascii=False)
    return head.encode(errors="replace") + b"\n" + blob


def parse_from_gateway(packet: bytes) -> tuple[FromGateway, bytes]:
    """Raises pydantic's ValidationError for anything else than a frame of the gateway's."""
    head, _, blob = packet.partition(b"\n")
    return _FROM_GATEWAY.validate_json(head), blob


def parse_from_manager(packet: bytes) -> tuple[FromManager, bytes]:
    """Raises pydantic's ValidationError for anything else than a frame of the manager's."""
    head, _, blob = packet.partition(b"\n")
    return _FROM_MANAGER.validate_json(head), blob
