# SPDX-License-Identifier: Apache-2.0
"""What a heartbeat may say: an endpoint is not trusted, and others are shown its words.

A field which is unknown is dropped, and one which is wrong as well: other versions of endpoints
have other fields, and their heartbeats count all the same.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
)

from globus_compute_services.documents import storable_text

__all__ = ["FIGURES", "Report"]

_JOBS = 100
_HOSTS = 16
_DEFAULT_PERIOD_S = 30.0
_LONGEST_PERIOD_S = 3600.0


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in storable_text(text))


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) else value


_Name = Annotated[
    str, Field(max_length=320), BeforeValidator(_number_as_text), AfterValidator(_plain)
]
_Text = Annotated[str, Field(max_length=4096), AfterValidator(_plain)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Amount = Annotated[float, Field(ge=0, le=2**53)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_nothing(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            return None


class _Job(_Fields):
    job_id: _Name | None = None
    block: _Name | None = None
    state: _Name | None = None
    since: _Count | None = None
    pools: _Count | None = None
    workers: _Count | None = None
    tasks: _Count | None = None
    hosts: Annotated[list[_Name], Field(max_length=_HOSTS)] | None = None


class Report(_Fields):
    """``global_state`` of a heartbeat. ``heartbeat_period`` is in seconds."""

    active: bool | None = None
    heartbeat_period: Annotated[float, Field(strict=True)] | None = None
    endpoint_version: _Name | None = None
    sdk_version: _Name | None = None
    python_version: _Name | None = None
    hostname: _Name | None = None
    local_user: _Name | None = None
    pid: _Count | None = None
    journal_trouble: _Text | None = None
    engine_type: _Name | None = None
    scaling_enabled: bool | None = None
    total_workers: _Count | None = None
    idle_workers: _Count | None = None
    pending_tasks: _Count | None = None
    outstanding_tasks: _Count | None = None
    waiting_tasks: _Count | None = None
    managers: _Count | None = None
    blocks_running: _Count | None = None
    blocks_pending: _Count | None = None
    min_blocks: _Count | None = None
    max_blocks: _Count | None = None
    nodes: _Count | None = None
    nodes_per_block: _Count | None = None
    prefetch_capacity: _Count | None = None
    max_workers_per_node: _Count | None = None
    total_cores: _Count | None = None  # the public endpoint package's
    total_mem: _Amount | None = None  # likewise; GiB
    total_core_hrs: _Amount | None = None  # likewise
    jobs: Annotated[list[_Job], Field(max_length=_JOBS)] | None = None
    jobs_not_shown: _Count | None = None

    @property
    def period(self) -> float:
        """The seconds within which the next report is due; 0 means goodbye."""
        if self.active is False:
            return 0.0
        period = _DEFAULT_PERIOD_S if self.heartbeat_period is None else self.heartbeat_period
        return min(max(period, 0.0), _LONGEST_PERIOD_S)

    def document(self) -> dict[str, Any]:
        """Return what is told, for the database and its readers."""
        return self.model_dump(mode="json", exclude_none=True)


#: What everyone who may see an endpoint may know of it: counts, and no names of machines or jobs.
FIGURES = frozenset(Report.model_fields) - {
    "hostname",
    "local_user",
    "pid",
    "journal_trouble",
    "jobs",
    "jobs_not_shown",
}
