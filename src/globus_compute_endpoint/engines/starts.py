# SPDX-License-Identifier: Apache-2.0
"""Which tasks have begun on workers that cannot tell us but by their marks."""

from __future__ import annotations

import logging
from collections import Counter

from globus_compute_endpoint.engines.base import EngineContext
from globus_compute_endpoint.engines.marks import MarksReader
from globus_compute_endpoint.host.patience import in_thread

__all__ = ["Starts"]

log = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds for a file system which may be away
_SPARED = 3  # times
_TAIL = 4096  # bytes; a result's details are at its end


class Starts:
    """Follows the start marks of one life, and tells the ledger of them."""

    def __init__(self, context: EngineContext) -> None:
        self._started = context.started
        self._reader = MarksReader(context.marks) if context.marks is not None else None
        self._begun: set[str] = set()
        self._spared: Counter[str] = Counter()

    async def read(self) -> None:
        """Read the marks which are new. Where that fails, all tasks may have begun."""
        if self._reader is None:
            return
        try:
            new = await in_thread(self._reader.new, _TIMEOUT)
        except (OSError, TimeoutError) as error:
            self._give_up(str(error) or "the file system does not answer")
            return
        for task_id in new:
            self._begun.add(task_id)
            self._started(task_id)

    def may_have_begun(self, task_id: str) -> bool:
        """Return whether an attempt which is lost may have begun, and forget that it has.

        A task which goes down with others again and again is taken for begun.
        """
        self._spared[task_id] += 1
        begun = self._reader is None or task_id in self._begun or self._spared[task_id] > _SPARED
        self._begun.discard(task_id)
        return begun

    def forget(self, task_id: str) -> None:
        """A task is finished."""
        self._begun.discard(task_id)
        del self._spared[task_id]

    def check(self, packed: bytes) -> None:
        """Look whether the worker which made a result could mark its start."""
        if self._reader is not None and b'"start_mark"' in packed[-_TAIL:]:
            self._give_up("a worker could not write there")

    def _give_up(self, reason: str) -> None:
        log.error("Start marks are not to be relied on: %s", reason)
        self._reader = None
