# SPDX-License-Identifier: Apache-2.0
"""When the scheduler is asked about an executor's blocks, and who is told what it says."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus

from globus_compute_endpoint.engines.batch_jobs import runs_batch_jobs
from globus_compute_endpoint.engines.interchange import CUT_OFF_MANAGERS, ENDED_BLOCKS
from globus_compute_endpoint.engines.losses import BlockReport
from globus_compute_endpoint.engines.marks import Place

__all__ = ["BlockWatch"]

_LEAST_INTERVAL = 4.0  # seconds between two questions, whatever has happened
_ALERT = 60.0  # seconds, as long as a scheduler may take to clear up a job
_WORDS = {
    JobState.CANCELLED: "was cancelled",
    JobState.COMPLETED: "has ended",
    JobState.FAILED: "has failed",
    JobState.MISSING: "has ended",
    JobState.SCALED_IN: "was cancelled by the endpoint, which had no tasks left for it",
    JobState.TIMEOUT: "reached its time limit",
}


class BlockWatch:
    """Asks the scheduler once in a while, and soon when a connection to workers has broken.

    A block which is not connected yet is asked for the more often the younger it is: most of
    those that fail do so at once, and those in a long queue would have the scheduler asked in
    vain. The interchange is told which blocks have ended: it need not wait for their heartbeats.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._asked = -math.inf
        self._missed_before = 0
        self._alert_until = 0.0
        self._unconnected: dict[str, float] = {}  # blocks, and since when they are known
        self._told: set[str] = set()

    def look(self, *, at_once: bool = False) -> None:
        """Ask the scheduler if it is time to, or ``at_once`` if it was not just asked.

        From one thread at a time.

        Raises:
            Exception: the scheduler or the interchange could not be asked.
        """
        now = time.monotonic()
        connected = set(self._executor.connected_blocks())
        self._note_unconnected(connected, now)
        missed = self._missed(connected)
        if missed > self._missed_before:
            self._alert_until = now + _ALERT
        self._missed_before = missed
        if now >= self._asked + (_LEAST_INTERVAL if at_once else self._interval(now)):
            self._asked = now
            self._executor._last_poll_time = 0.0  # Parsl has an interval of its own
            self._executor.poll_facade()
            self._tell_interchange(connected)

    @property
    def awaits_workers(self) -> bool:
        """Whether there are blocks whose workers had not connected at the last look."""
        return bool(self._unconnected)

    def knows_end(self, block: str) -> bool:
        """Return whether the scheduler has told of a block's end."""
        return block not in self._active()

    def tell(self, place: Place) -> BlockReport | None:
        """Return what is known of the block where a task ran; None if it is none of ours."""
        executor = self._executor
        job = executor.blocks_to_job_id.get(place.block)
        if job is None:
            return None
        known = getattr(executor.provider, "resources", {}).get(job, {})
        paths = (known.get(f"job_{name}_path") for name in ("stdout", "stderr"))
        stdout, stderr = (Path(each) if each else None for each in paths)
        kind = "batch job" if runs_batch_jobs(executor.provider) else "local block"
        name = f"{kind} {job} on {place.host}" if place.host else f"{kind} {job}"
        return BlockReport(name, _end(executor.status_facade.get(place.block)), stdout, stderr)

    def _interval(self, now: float) -> float:
        usual = float(self._executor.status_polling_interval)
        if self._missed_before and now < self._alert_until:
            return min(usual, _LEAST_INTERVAL)
        if self._unconnected:
            youngest = now - max(self._unconnected.values())
            return min(usual, max(_LEAST_INTERVAL, youngest / 4))
        return usual

    def _missed(self, connected: set[str]) -> int:
        """Return how many connections and blocks there should be which are not to be seen."""
        cut_off = self._executor.command_client.run(CUT_OFF_MANAGERS) or 0
        present = {each["block_id"] for each in self._executor.connected_managers()}
        return int(cut_off) + len((self._active() & connected) - present)

    def _note_unconnected(self, connected: set[str], now: float) -> None:
        blocks = self._active() - connected
        self._unconnected = {each: self._unconnected.get(each, now) for each in blocks}

    def _tell_interchange(self, connected: set[str]) -> None:
        ended = connected - self._active() - self._told
        if ended:
            self._executor.command_client.run((ENDED_BLOCKS, sorted(ended)))
            self._told |= ended

    def _active(self) -> set[str]:
        states = self._executor.status_facade
        return {block for block, each in states.items() if each.state not in TERMINAL_STATES}


def _end(status: JobStatus | None) -> str | None:
    if status is None or status.state not in TERMINAL_STATES:
        return None
    return status.message or _WORDS[status.state]
