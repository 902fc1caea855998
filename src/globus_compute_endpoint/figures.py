# SPDX-License-Identifier: Apache-2.0
"""How a user endpoint fares, in figures: what heartbeats and ``status`` tell, and others parse.

Managers read these from processes of their users: each text, number and list has a bound, which
:func:`shortened` keeps.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "HOSTS_SHOWN",
    "JOBS_SHOWN",
    "STATUS_LIMIT",
    "EngineFigures",
    "JobFigures",
    "Report",
    "State",
    "shortened",
]

#: Bytes of a frame with a report from a user endpoint to its manager.
STATUS_LIMIT = 64 * 1024

JOBS_SHOWN = 100
HOSTS_SHOWN = 4
_LONGEST = 64  # characters

State = Literal["starting", "running", "draining", "stopped", "failed"]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Time = Annotated[int, Field(ge=0, le=2**33)]  # seconds since the epoch


def shortened(text: object) -> str:
    """Return a text for people as it fits a report: printable, and not too long."""
    shown = "".join(each if each.isprintable() else "?" for each in str(text))
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


_Text = Annotated[str, BeforeValidator(shortened)]


class _Figures(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class JobFigures(_Figures):
    """A block, and the batch job which it is. ``state`` is the scheduler's, since ``since``.

    ``pools``: how many worker pools have connected from it, each from a host. ``hosts`` are the
    first of these. ``tasks`` are those which its workers have.
    """

    job_id: _Text
    block: _Text
    state: _Text
    since: _Time
    pools: _Count = 0
    workers: _Count = 0
    tasks: _Count = 0
    hosts: Annotated[tuple[_Text, ...], Field(max_length=HOSTS_SHOWN)] = ()


class EngineFigures(_Figures):
    """What an engine has, and has to do.

    ``pending_tasks`` wait for a worker. To engines without blocks, their machine is the only one.
    ``managers`` are the worker pools which are connected, ``nodes`` those of blocks which run.
    There are ``jobs_not_shown`` more jobs.
    """

    engine_type: _Text = ""
    total_workers: _Count = 0
    idle_workers: _Count = 0
    pending_tasks: _Count = 0
    max_workers_per_node: _Count = 0
    scaling_enabled: bool = False
    min_blocks: _Count = 1
    max_blocks: _Count = 1
    nodes_per_block: _Count = 1
    blocks_running: _Count | None = None
    blocks_pending: _Count | None = None
    managers: _Count | None = None
    nodes: _Count | None = None
    prefetch_capacity: _Count | None = None
    jobs: Annotated[tuple[JobFigures, ...], Field(max_length=JOBS_SHOWN)] = ()
    jobs_not_shown: _Count = 0


class Report(_Figures):
    """A user endpoint's word about itself.

    ``waiting_tasks`` are in its journal and nowhere else yet; ``done_tasks`` those whose results
    were confirmed since ``since``; ``heartbeat`` is when the broker last took a heartbeat.
    """

    state: State
    pid: _Count
    since: _Time
    heartbeat: _Time | None = None
    outstanding_tasks: _Count = 0
    waiting_tasks: _Count = 0
    done_tasks: _Count = 0
    journal_trouble: _Text | None = None
    engine: EngineFigures = EngineFigures()

    def without_jobs(self) -> Report:
        """Return it as it fits everywhere: jobs are counted, and not told."""
        engine = self.engine
        count = engine.jobs_not_shown + len(engine.jobs)
        shorter = engine.model_copy(update={"jobs": (), "jobs_not_shown": count})
        return self.model_copy(update={"engine": shorter})

    @property
    def running_tasks(self) -> int:
        """How many workers have a task."""
        return max(self.engine.total_workers - self.engine.idle_workers, 0)

    @property
    def queued_tasks(self) -> int:
        """How many tasks wait for a worker, wherever they do."""
        return self.waiting_tasks + self.engine.pending_tasks
