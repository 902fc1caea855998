# SPDX-License-Identifier: Apache-2.0
"""Which tasks have begun on workers that cannot tell us but by their marks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from globus_compute_endpoint.engines.base import EngineContext
from globus_compute_endpoint.engines.marks import MarksReader, Place, is_unmarked
from globus_compute_endpoint.host.patience import in_thread

__all__ = ["Starts"]

log = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds for a file system which may be away
_SPARED = 3  # times


class Starts:
    """Follows the start marks of one life, and tells the ledger of them.

    ``is_open`` knows the tasks which are not finished.
    """

    def __init__(self, context: EngineContext, is_open: Callable[[str], bool]) -> None:
        self._started = context.started
        self._is_open = is_open
        self._reader = MarksReader(context.marks)
        self._complete = True  # whether all marks which were made could be read
        self._reliable = True  # whether all starts could be marked
        self._begun: dict[str, Place] = {}
        self._spared: Counter[str] = Counter()

    async def read(self) -> None:
        """Read the marks which are new. As long as that fails, all tasks may have begun."""
        try:
            await in_thread(self._reader.read, _TIMEOUT)
            self._complete = True
        except (OSError, TimeoutError) as error:
            self._complete = False
            log.warning("Start marks cannot be read: %s", error or "no answer")
        while self._reader.found:
            task_id, place = self._reader.found.popleft()
            if self._is_open(task_id):
                self._begun[task_id] = place
                self._started(task_id)

    def place(self, task_id: str) -> Place | None:
        """Return where a task runs, if it has begun and its mark was read."""
        return self._begun.get(task_id)

    def may_have_begun(self, task_id: str) -> bool:
        """Return whether an attempt which is lost may have begun, and forget that it has.

        A task which goes down with others again and again is taken for begun.
        """
        self._spared[task_id] += 1
        begun = (
            not (self._complete and self._reliable)
            or task_id in self._begun
            or self._spared[task_id] > _SPARED
        )
        self._begun.pop(task_id, None)
        return begun

    def forget(self, task_id: str) -> None:
        """A task is finished."""
        self._begun.pop(task_id, None)
        del self._spared[task_id]

    def check(self, packed: bytes) -> None:
        """Look whether the worker which made a result could mark its start."""
        self._reliable = self._reliable and not is_unmarked(packed)
