# SPDX-License-Identifier: Apache-2.0
"""What becomes of tasks, gathered for one transaction of the task journal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.journal_rows import packed_history, packed_request

__all__ = ["Batch", "State"]

Row = tuple[int, str, int, int | None, int | None, int | None, int | None, int | None, int | None,
            str | None, str | None]  # fmt: skip


class State(IntEnum):
    """How far a task is. SUBMITTED: an engine has it; CONFIRMED: the broker has its result."""

    RECEIVED = 0
    SUBMITTED = 1
    STARTED = 2
    FINISHED = 3
    CONFIRMED = 4


@dataclass(slots=True)
class Batch:
    """What is to be written in one transaction."""

    rows: list[Row] = field(default_factory=list)
    contents: list[tuple[int, bytes]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)  # contents

    def __bool__(self) -> bool:
        return bool(self.rows)

    def receive(self, seq: int, task: TaskRequest, state: State) -> None:
        """Add a task which has come, and goes to its engine at once if it is SUBMITTED."""
        submitted = task.received if state is State.SUBMITTED else None
        self.rows.append(
            (
                seq, task.task_id, state, task.received, submitted, None, None, None,
                len(task.body), packed_history(task.history), packed_request(task),
            )
        )  # fmt: skip
        self.contents.append((seq, task.body))

    def submit(self, seq: int, task_id: str, history: Sequence[str] | None = None) -> None:
        """Note that an engine has it; ``history`` where that is another now."""
        past = None if history is None else packed_history(history)
        now = time.time_ns()
        self.rows.append(
            (seq, task_id, State.SUBMITTED, None, now, None, None, None, None, past, None)
        )

    def start(self, seq: int, task_id: str, started: int) -> None:
        """Note when it has begun, in ns since the epoch."""
        self.rows.append(
            (seq, task_id, State.STARTED, None, None, started, None, None, None, None, None)
        )

    def finish(self, seq: int, task_id: str, result: bytes, started: int | None = None) -> None:
        """Add its result, in the place of its body; ``started``: when it began, if not noted."""
        now, size = time.time_ns(), len(result)
        self.rows.append(
            (seq, task_id, State.FINISHED, None, None, started, now, None, size, None, None)
        )
        self.contents.append((seq, result))

    def confirm(self, seq: int, task_id: str) -> None:
        """Note that the broker has its result; no more than its id and times are kept."""
        now = time.time_ns()
        self.rows.append(
            (seq, task_id, State.CONFIRMED, None, None, None, None, now, 0, None, None)
        )
        self.removed.append(seq)

    def extend(self, later: Batch) -> None:
        """Add what came later."""
        self.rows += later.rows
        self.contents += later.contents
        self.removed += later.removed
