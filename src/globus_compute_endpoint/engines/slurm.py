# SPDX-License-Identifier: Apache-2.0
"""SlurmProvider, with what Slurm says of jobs that have ended.

Parsl takes each job for completed which ``squeue`` does not list, and asks for none that have
ended; where it asks ``sacct``, so it takes one which the accounting has not heard of yet. Asked
for a single job which is forgotten, ``squeue`` fails, and that one runs on for Parsl for ever.
"""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import SlurmProvider

__all__ = ["TellingSlurmProvider"]

log = logging.getLogger(__name__)

# What Parsl calls HELD would not count against max_blocks.
_STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
}
_ENDS = {
    "BOOT_FAIL": (JobState.FAILED, "could not boot its nodes"),
    "CANCELLED": (JobState.CANCELLED, "was cancelled"),
    "COMPLETED": (JobState.COMPLETED, "has ended by itself"),
    "DEADLINE": (JobState.TIMEOUT, "reached its deadline"),
    "FAILED": (JobState.FAILED, "has failed"),
    "NODE_FAIL": (JobState.FAILED, "has lost a node"),
    "OUT_OF_MEMORY": (JobState.FAILED, "ran out of memory"),
    "PREEMPTED": (JobState.TIMEOUT, "was preempted"),
    "REVOKED": (JobState.FAILED, "was revoked"),
    "TIMEOUT": (JobState.TIMEOUT, "reached its time limit"),
}
_LOOK_FOR_ACCOUNTING = "sacct -X"  # as Parsl does, whenever it makes a provider
_UNKNOWN_JOB = "Invalid job id"


class TellingSlurmProvider(SlurmProvider):
    """SlurmProvider whose jobs' statuses say how they ended, in ``message``.

    A job which has lost a node is not queued again by Slurm, but replaced by the engine, unless
    ``scheduler_options`` ask for ``--requeue``.
    """

    __signature__ = inspect.signature(SlurmProvider)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._accounting = self._cmd.startswith("sacct")
        self.scheduler_options = f"#SBATCH --no-requeue\n{self.scheduler_options}"

    def execute_wait(self, cmd: str, timeout: float | None = None) -> Any:
        try:
            return super().execute_wait(cmd, timeout)  # type: ignore[no-untyped-call]  # Parsl leaves it untyped
        except subprocess.TimeoutExpired as error:
            if cmd != _LOOK_FOR_ACCOUNTING:
                raise
            log.warning("Going on as without accounting: %s", error)
            return 1, "", str(error)

    def _status(self) -> None:
        open_jobs = [
            str(job) for job, known in self.resources.items() if not known["status"].terminal
        ]
        for batch in _batches(open_jobs, self.status_batch_size):
            told = self._ask_controller(batch)
            if told is None:
                return
            if forgotten := [job for job in batch if job not in told]:
                told |= self._ask_accounting(forgotten)
            for job in batch:
                self._note(job, *told.get(job, ("", "")))

    def _note(self, job: str, state: str, reason: str) -> None:
        known = self.resources[job]
        if state in _ENDS:
            parsls, how = _ENDS[state]
            because = "" if reason in ("", "None") else f", {reason}"
            message = f"{how} (Slurm: {state}{because})"
        elif state:
            parsls, message = _STATES.get(state, JobState.UNKNOWN), f"Slurm: {state}, {reason}"
        else:
            parsls, message = JobState.COMPLETED, "has ended, and Slurm knows it no more"
        known["status"] = JobStatus(
            parsls,
            message,
            stdout_path=known["job_stdout_path"],
            stderr_path=known["job_stderr_path"],
        )

    def _ask_controller(self, jobs: list[str]) -> dict[str, tuple[str, str]] | None:
        """Return states and reasons of the jobs Slurm knows; None if it does not answer."""
        # With a user, the controller tells of no other's jobs, of which there may be many.
        ask = f"squeue{self._clusters} --noheader --states=all --user={os.getuid()}"
        status, out, err = self._run(f"{ask} --format='%i|%T|%r' --jobs={','.join(jobs)}")
        if status and _UNKNOWN_JOB not in err:
            log.warning("squeue has failed (%d): %s", status, err.strip())
            return None
        return _rows(out)

    def _ask_accounting(self, jobs: list[str]) -> dict[str, tuple[str, str]]:
        if not self._accounting:
            return {}
        ask = f"sacct{self._clusters} --allocations --noheader --parsable2 --format=jobid,state"
        status, out, err = self._run(f"{ask} --jobs={','.join(jobs)}")
        if status:
            log.warning("sacct has failed (%d): %s", status, err.strip())
            return {}
        return {job: (state.split()[0], "") for job, (state, _) in _rows(out).items() if state}

    def _run(self, command: str) -> tuple[int, str, str]:
        # Parsl leaves it untyped, and batch_jobs puts another in its place.
        run: Callable[[str], tuple[int, str, str]] = self.execute_wait
        try:
            return run(command)
        except subprocess.TimeoutExpired as error:
            return 1, "", str(error)

    @property
    def _clusters(self) -> str:
        return f" --clusters={self.clusters}" if self.clusters else ""


def _rows(out: str) -> dict[str, tuple[str, str]]:
    rows = (line.strip().split("|") for line in out.splitlines() if "|" in line)
    return {job: (state, " ".join(reason)) for job, state, *reason in rows}


def _batches(jobs: Iterable[str], size: int) -> Iterable[list[str]]:
    rest = iter(jobs)
    while batch := list(islice(rest, size)):
        yield batch
