# SPDX-License-Identifier: Apache-2.0
"""A user endpoint's word about itself: for its heartbeats, and for who asks on this machine."""

from __future__ import annotations

import os
import time
from typing import Any

from globus_compute_endpoint.engines.base import Engine
from globus_compute_endpoint.figures import Report, State
from globus_compute_endpoint.user_endpoint.heartbeat import who_we_are
from globus_compute_endpoint.user_endpoint.ledger import Ledger

__all__ = ["Reporting"]


class Reporting:
    """Gathers figures where they are. To be asked on the event loop."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger
        self._since = int(time.time())
        self._done = 0
        self._heartbeat: int | None = None

    def note_done(self) -> None:
        """A task's result was confirmed."""
        self._done += 1

    def note_heartbeat(self) -> None:
        """The broker has taken a heartbeat."""
        self._heartbeat = int(time.time())

    def report(self, state: State) -> Report:
        """Return all that is to be told on this machine."""
        return Report(
            state=state,
            pid=os.getpid(),
            since=self._since,
            heartbeat=self._heartbeat,
            outstanding_tasks=self._ledger.outstanding,
            waiting_tasks=self._ledger.waiting,
            done_tasks=self._done,
            journal_trouble=self._ledger.trouble,
            engine=self._engine.status(),
        )

    def global_state(self) -> dict[str, Any]:
        """Return what a heartbeat says, in the words which the web services know."""
        report = self.report("running")
        told = report.model_dump(
            exclude_none=True, include={"outstanding_tasks", "waiting_tasks", "journal_trouble"}
        )
        engine = report.engine.model_dump(mode="json", exclude_none=True)
        return who_we_are() | told | engine | {"pending_tasks": report.queued_tasks}
