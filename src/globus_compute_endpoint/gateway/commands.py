# SPDX-License-Identifier: Apache-2.0
"""What arrives on a manager's command queue, parsed into a typed model or refused."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from globus_compute_endpoint.amqp.consumer import Delivery
from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.host.packets import MAX_FRAME
from globus_compute_endpoint.manager.protocol import Identity, Start
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Refused", "StartCommand", "parse_command", "read_credentials"]

_STALE_AFTER_S = 180
_ROOM_FOR_THE_FRAME = 48 * 1024
_MAX_BLOB = MAX_FRAME - _ROOM_FOR_THE_FRAME


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _GlobusIdentity(_Model):
    """As Globus Auth sends it; only what a mapping may use goes on to the manager."""

    sub: UUID = Field(validation_alias=AliasChoices("sub", "id"))
    username: str
    email: str | None = None
    name: str | None = None
    organization: str | None = None
    identity_provider: str | None = None
    identity_type: str | None = None
    status: str | None = None

    def for_manager(self) -> Identity:
        return Identity.model_validate(self.model_dump())


class _Arguments(_Model):
    name: str
    amqp_creds: dict[str, Any]
    user_opts: dict[str, Any] = Field(default_factory=dict)
    user_runtime: dict[str, Any] = Field(default_factory=dict)


class _Command(_Model):
    command: Literal["cmd_start_endpoint"]
    arguments: _Arguments = Field(validation_alias=AliasChoices("kwargs"))
    globus_effective_identity: UUID
    globus_username: str
    globus_identity_set: list[_GlobusIdentity]


@dataclass(frozen=True)
class StartCommand:
    """A start command which may go to the manager."""

    endpoint_id: UUID
    name: str
    effective_identity: UUID
    identities: tuple[Identity, ...]
    blob: bytes
    credentials: UserEndpointQueues

    def as_start(self, number: int = 0) -> Start:
        """As a manager takes it. Raises Problem where it does not fit."""
        try:
            return Start(
                number=number,
                endpoint_id=self.endpoint_id,
                name=self.name,
                effective_identity=self.effective_identity,
                identities=self.identities,
            )
        except ValidationError as error:
            raise _malformed(_summary(error)) from error


@dataclass(frozen=True)
class Refused:
    """A command that goes no further; with credentials, its user can be told."""

    problem: Problem
    credentials: UserEndpointQueues | None = None


def parse_command(delivery: Delivery) -> StartCommand | Refused:
    """Sort out one message of the command queue; never raises for what is in it."""
    age = _age(delivery)
    if age is None or abs(age) > _STALE_AFTER_S:
        said = "without a timestamp" if age is None else f"{age:.0f} s old"
        hint = "is the clock right, here and where the web services run?" if age else ""
        return Refused(Problem("STALE_COMMAND", f"dropped a command {said}", hint))
    try:
        raw = json.loads(delivery.body)
    except (ValueError, RecursionError) as error:
        return Refused(_malformed(f"not JSON: {error}"))
    credentials = read_credentials(raw)
    try:
        command = _Command.model_validate(raw)
        identities = tuple(each.for_manager() for each in command.globus_identity_set)
    except ValidationError as error:
        return Refused(_malformed(_summary(error)), credentials)
    if credentials is None:
        return Refused(_malformed("amqp_creds is missing or malformed"))
    blob = _blob(command.arguments)
    if len(blob) > _MAX_BLOB:
        return Refused(_too_large(len(blob)), credentials)
    return StartCommand(
        endpoint_id=credentials.endpoint_id,
        name=command.arguments.name,
        effective_identity=command.globus_effective_identity,
        identities=identities,
        blob=blob,
        credentials=credentials,
    )


def read_credentials(raw: object) -> UserEndpointQueues | None:
    """The credentials in a command, however broken the rest of it is; None without."""
    try:
        kwargs = raw["kwargs"]  # type: ignore[index]  # a TypeError says that it is no mapping
        return UserEndpointQueues.model_validate(kwargs["amqp_creds"])
    except (KeyError, TypeError, ValidationError):
        return None


def _age(delivery: Delivery) -> float | None:
    timestamp = delivery.properties.timestamp
    return time.time() - timestamp if isinstance(timestamp, int | float) else None


def _blob(arguments: _Arguments) -> bytes:
    content = {
        "user_opts": arguments.user_opts,
        "user_runtime": arguments.user_runtime,
        "amqp_creds": arguments.amqp_creds,
    }
    return json.dumps(content).encode()


def _malformed(what: str) -> Problem:
    return Problem(
        "MALFORMED_COMMAND",
        f"the start command is malformed: {what}",
        "this is a defect of the web services, or of the SDK",
        ExitStatus.DATA,
    )


def _too_large(size: int) -> Problem:
    return Problem(
        "OPTIONS_TOO_LARGE",
        f"user_endpoint_config and runtime take {size} bytes; {_MAX_BLOB} is the limit",
        "put large values into a file, and name the file",
        ExitStatus.DATA,
    )


def _summary(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in details[:5])
