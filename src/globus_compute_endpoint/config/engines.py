# SPDX-License-Identifier: Apache-2.0
"""The ``engine:`` of a user endpoint's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from globus_compute_sdk.errors import SerdeError
from globus_compute_sdk.serialize.facade import parse_allowlist
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from globus_compute_endpoint.config.containers import ContainerOptions

__all__ = [
    "BlocksEngineConfig",
    "EngineConfig",
    "GlobusComputeEngineConfig",
    "GlobusMPIEngineConfig",
    "ProcessPoolEngineConfig",
    "ThreadPoolEngineConfig",
]


def _known_serializers(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    try:
        if not parse_allowlist(names):  # the SDK takes an empty list for none
            raise SerdeError(
                "Deserialization allowlists must contain at least one code and one data"
                f" deserializer/wildcard (got: {list(names)})"
            )
    except SerdeError as error:
        raise ValueError(str(error)) from error
    return names


class _AnyEngine(BaseModel):
    """What all engines understand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | None = None
    allowed_serializers: Annotated[tuple[str, ...] | None, AfterValidator(_known_serializers)] = (
        None
    )
    run_in_sandbox: bool = False
    working_dir: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    max_retries_on_system_failure: Annotated[int, Field(ge=0)] = 0


class ThreadPoolEngineConfig(_AnyEngine):
    """``type: ThreadPoolEngine``."""

    type: Literal["ThreadPoolEngine"]
    max_workers: Annotated[int, Field(ge=1)] | None = None


class ProcessPoolEngineConfig(_AnyEngine):
    """``type: ProcessPoolEngine``."""

    type: Literal["ProcessPoolEngine"]
    max_workers: Annotated[int, Field(ge=1)] | None = None


class JobStatus(BaseModel):
    """How often blocks are looked at, and when they are let go. In seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_idletime: Annotated[float, Field(gt=0)] = 120.0
    strategy_period: Annotated[float, Field(gt=0)] = 5.0


class BlocksEngineConfig(_AnyEngine):
    """An engine on blocks of nodes, by Parsl; options not named here are its executor's own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    provider: dict[str, Any] = Field(default_factory=lambda: {"type": "LocalProvider"})
    strategy: Literal["simple", "htex_auto_scale", "none"] = "simple"
    job_status_kwargs: JobStatus = JobStatus()


class GlobusComputeEngineConfig(ContainerOptions, BlocksEngineConfig):
    """``type: GlobusComputeEngine``."""

    type: Literal["GlobusComputeEngine"] = "GlobusComputeEngine"


class GlobusMPIEngineConfig(BlocksEngineConfig):
    """``type: GlobusMPIEngine``: at most ``max_workers_per_block`` tasks at a time in a block."""

    type: Literal["GlobusMPIEngine"]
    mpi_launcher: Literal["srun", "aprun", "mpiexec"] = "mpiexec"
    max_workers_per_block: Annotated[int, Field(ge=1)] = 1


EngineConfig = Annotated[
    ThreadPoolEngineConfig
    | ProcessPoolEngineConfig
    | GlobusComputeEngineConfig
    | GlobusMPIEngineConfig,
    Field(discriminator="type"),
]
