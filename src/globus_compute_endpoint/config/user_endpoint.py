# SPDX-License-Identifier: Apache-2.0
"""The configuration of a user endpoint: a single user's ``config.yaml``, or a rendered template."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.engines import EngineConfig, GlobusComputeEngineConfig
from globus_compute_endpoint.config.journal import JournalConfig

__all__ = ["DEPRECATED_ENGINE", "UserEndpointConfig"]

#: What GlobusComputeEngine was called before; still taken, for configurations of that time.
DEPRECATED_ENGINE = "HighThroughputEngine"


class UserEndpointConfig(CommonConfig):
    """What a user endpoint may be told.

    ``idle_heartbeats_soft`` heartbeats without a task end the endpoint (0: never), and
    ``idle_heartbeats_hard`` heartbeats in which nothing moved, even where tasks are outstanding.
    """

    multi_user: Literal[False] | None = None
    engine: EngineConfig = GlobusComputeEngineConfig()
    idle_heartbeats_soft: Annotated[int, Field(ge=0)] = 0
    idle_heartbeats_hard: Annotated[int, Field(ge=0)] = 5760
    journal: JournalConfig = JournalConfig()
    endpoint_setup: str | None = None
    endpoint_teardown: str | None = None

    @field_validator("engine", mode="before")
    @classmethod
    def _default_type(cls, engine: Any) -> Any:
        if engine is None:
            return {"type": "GlobusComputeEngine"}
        if isinstance(engine, dict) and engine.get("type") in (None, DEPRECATED_ENGINE):
            return {**engine, "type": "GlobusComputeEngine"}
        return engine
