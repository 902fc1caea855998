# SPDX-License-Identifier: Apache-2.0
"""Looking into the task journal of a user endpoint which may be running."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from globus_compute_endpoint.host.paths import JOURNAL_FILE
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.journal import Journal, OpenTask
from globus_compute_endpoint.user_endpoint.journal_batch import State

__all__ = ["STATES", "StateName", "TaskRow", "last_end", "rows", "tasks_in"]

StateName = Literal["received", "submitted", "started", "finished", "confirmed"]
STATES: tuple[StateName, ...] = ("received", "submitted", "started", "finished", "confirmed")

_BUSY_TIMEOUT = 10.0
_FIRST_YEAR, _LAST_YEAR = 1970, 2200


def _plausible(time: datetime) -> datetime:
    """What a user's journal says is not taken for granted: any year is not shown in any zone."""
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise ValueError(f"the year {time.year}")
    return time


_Time = Annotated[datetime, AfterValidator(_plausible)]


class TaskRow(BaseModel):
    """A task as people are told of it. ``size`` is its body's in bytes, or then its result's."""

    model_config = ConfigDict(frozen=True)

    task_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    state: StateName
    received: _Time
    started: _Time | None
    finished: _Time | None
    confirmed: _Time | None
    attempts: int
    size: int


rows = TypeAdapter(list[TaskRow])


def tasks_in(directory: Path, first: StateName, last: StateName, limit: int) -> list[TaskRow]:
    """Return tasks of a state directory in the states from ``first`` to ``last``, oldest first.

    None where it has no journal.

    Raises:
        Problem: its journal cannot be read (DATA).
    """
    with _journal_in(directory) as journal:
        found = [] if journal is None else journal.tasks(_state(first), _state(last), limit)
        return [_row(task) for task in found]


def last_end(directory: Path) -> str | None:
    """Return why the last life of the endpoint ended, if its journal knows.

    Raises:
        Problem: its journal cannot be read (DATA).
    """
    with _journal_in(directory) as journal:
        return None if journal is None else journal.last_end()


@contextlib.contextmanager
def _journal_in(directory: Path) -> Iterator[Journal | None]:
    path = directory / JOURNAL_FILE
    if not path.is_file():
        yield None
        return
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT)
        with contextlib.closing(database):
            yield Journal(database)
    except (sqlite3.Error, ValueError) as error:
        raise Problem(
            "JOURNAL_UNREADABLE",
            f"the task journal {path} cannot be read: {error}",
            "see the end of its endpoint.log, and that its disk is well",
            ExitStatus.DATA,
        ) from error


def _state(name: StateName) -> State:
    return State[name.upper()]


def _row(task: OpenTask) -> TaskRow:
    return TaskRow(
        task_id=task.task_id,
        state=STATES[task.state],
        received=datetime.fromtimestamp(task.received / 1e9, UTC),
        started=_time(task.started),
        finished=_time(task.finished),
        confirmed=_time(task.confirmed),
        attempts=task.attempts,
        size=task.size,
    )


def _time(nanoseconds: int | None) -> datetime | None:
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, UTC)
