# SPDX-License-Identifier: Apache-2.0
"""Ending what a task has started and left, where it was itself cut short.

This module travels to workers and pools by value, as source text. It needs psutil, as Parsl does.
"""

from __future__ import annotations

import contextlib

PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL


def end_processes(task_id: str) -> None:
    """End the programs which carry the task's id in their environment, those of Slurm's steps too.

    ``srun`` and its like hand SIGTERM on to the other nodes; they are given time for that.
    """
    import psutil

    for signal in ("terminate", "kill"):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # another user's, or gone meanwhile
                if process.environ().get("GC_TASK_UUID") == task_id:
                    getattr(process, signal)()
                    found.append(process)
        if not found:
            return
        psutil.wait_procs(found, timeout=PATIENCE)
