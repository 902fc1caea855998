# SPDX-License-Identifier: Apache-2.0
"""Why an attempt of a task was lost, in words from which its user finds the cause."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

__all__ = ["BlockReport", "Loss", "end_of_file", "explain"]

_READ = 65536  # bytes from the end of a file
_LINES = 20
_WIDTH = 200  # characters: a shell may tell the whole of a block's command, with code in it


class Loss(NamedTuple):
    """Why an attempt was lost, and whether its block of workers was, and not only its worker."""

    reason: str
    with_block: bool


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What is known of the block in which a task ran: how it ended, if it has, and its output."""

    name: str
    end: str | None
    stdout: Path | None
    stderr: Path | None

    def explain(self, loss: Loss) -> str:
        """Return the reason of a task's loss, and what its user should know of the block.

        The first line stands for itself: of all attempts but the last, it is all that is told.
        Reads the block's output, from a file system which may be away.
        """
        where = f" Its standard error is in {self.stderr}" if self.stderr else ""
        reason = loss.reason.splitlines()
        if not loss.with_block:
            lines = [*reason, f"It ran in {self.name}.{where}"]
        elif self.end is None:
            ran = f"It ran in {self.name}, which has not ended as far as is known.{where}"
            lines = [*reason, ran]
        else:
            lines = [f"{self.name[0].upper()}{self.name[1:]} {self.end}.{where}", reason[0]]
        if self.stdout:
            lines.append(f"Its standard output is in {self.stdout}")
        return "\n".join([*lines, *_end_of(self.stderr)])


def explain(error: BaseException, memory: str | None) -> str:
    """Return what an executor's error means; ``memory`` is which limit was reached here."""
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    if memory is not None:
        return (
            f"{text}\nThe kernel killed a process of this endpoint while the task ran, because"
            f" {memory}: ask for less, or for more memory."
        )
    if isinstance(error, WorkerLost):
        return (
            f"{text}\nThe worker process died while it ran the task: it may have run out of"
            " memory, or the function, or a library which it calls, has ended the process."
        )
    if isinstance(error, ManagerLost):
        return (
            f"{text}\nThe block of workers is gone: its batch job may have reached its time"
            " limit, or its node was lost."
        )
    return text


def end_of_file(path: Path, most: int) -> str:
    """Return the last bytes of a file as text. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        return file.read(most).decode(errors="replace").strip()


def _end_of(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = end_of_file(path, _READ).splitlines()[-_LINES:]
    except OSError as error:
        return [f"Its standard error cannot be read here: {error.strerror}"]
    if not lines:
        return ["Nothing was written to its standard error."]
    return ["Its standard error ends with:", *(f"  {_short(line)}" for line in lines)]


def _short(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH // 2]} […] {line[-_WIDTH // 2 :]}"
