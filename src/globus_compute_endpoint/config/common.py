# SPDX-License-Identifier: Apache-2.0
"""The options which managers and user endpoints have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, ConfigDict, Field

__all__ = ["CommonConfig", "Port", "Services"]

Port = Annotated[int, Field(ge=1, le=65535)]


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


class Services(BaseModel):
    """Which web services an endpoint belongs to; where an address is left out, the hosted ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compute_url: AnyHttpUrl | None = None
    auth_url: AnyHttpUrl | None = None
    ca_file: Annotated[Path, AfterValidator(_existing_file)] | None = None


class CommonConfig(BaseModel):
    """What any endpoint's ``config.yaml`` may hold. Periods are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    display_name: Annotated[str, Field(max_length=256)] | None = None
    amqp_port: Port | None = None
    debug: bool = False
    heartbeat_period: Annotated[float, Field(gt=0, le=3600)] = 30.0
    environment: str | None = None
    local_compute_services: bool = False
    services: Services = Services()
    allowed_functions: tuple[UUID, ...] | None = None
    authentication_policy: UUID | None = None
    subscription_id: UUID | None = None
    public: bool | None = None
    high_assurance: bool | None = None
    admins: tuple[UUID, ...] | None = None
