# SPDX-License-Identifier: Apache-2.0
"""When there is no hope for another block, and what is said of it to those whose tasks wait."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus

from globus_compute_endpoint.engines.batch_jobs import is_away
from globus_compute_endpoint.engines.block_watch import BlockWatch
from globus_compute_endpoint.engines.losses import BlockReport, end_of_file
from globus_compute_endpoint.engines.marks import Place
from globus_compute_endpoint.worker.shipping import UNFIT

__all__ = ["why_hopeless"]

_FAILED_BLOCKS = 3  # so many in a row which never served anyone are given up
_SHOWN = 2000
_CUT_SHORT = (JobState.CANCELLED, JobState.SCALED_IN, JobState.TIMEOUT)


def why_hopeless(
    states: Mapping[str, JobStatus], watch: BlockWatch, *, in_containers: bool
) -> str | None:
    """Return why no block can be had, if the last few have all failed, or one says so itself.

    Reads the newest block's output, from a file system which may be away.
    """
    ended = [
        (block, states[block])
        for block in sorted(states, key=int)
        if states[block].state in TERMINAL_STATES and not is_away(states[block].message)
    ]
    last = ended[-_FAILED_BLOCKS:]
    if not last or last[-1][1].state in _CUT_SHORT:
        return None
    block, newest = last[-1]
    report = watch.tell(Place("", block))
    stderr = (newest.stderr_summary or "").strip() or _stderr(report)
    if unfit := [line for line in stderr.splitlines() if line.startswith(UNFIT)]:
        return unfit[-1]
    # MISSING: it never connected. One that did was of use, however it ended.
    if len(last) < _FAILED_BLOCKS or any(each.state != JobState.MISSING for _, each in last):
        return None
    told = newest.message or f"exit status {newest.exit_code}"
    if report:
        told = f"the newest, {report.name}: {told}"
        if report.stderr:
            told += f"\nIts standard error is in {report.stderr}"
    for name, text in (("stdout", (newest.stdout_summary or "").strip()), ("stderr", stderr)):
        if text:
            told += f"\n{name}: {text[-_SHOWN:]}"
    needs = "the container's image" if in_containers else "the worker environment"
    return (
        f"The last {_FAILED_BLOCKS} blocks of workers have failed: {told}\nCheck worker_init"
        f" and the provider's options; {needs} needs Parsl and globus-compute-sdk."
    )


def _stderr(report: BlockReport | None) -> str:
    """Return what a batch job wrote, of whose output its provider does not tell Parsl."""
    with contextlib.suppress(OSError):  # not there (yet): its path is told
        if report and report.stderr:
            return end_of_file(report.stderr, _SHOWN)
    return ""
