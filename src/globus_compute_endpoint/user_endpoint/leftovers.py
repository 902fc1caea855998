# SPDX-License-Identifier: Apache-2.0
"""Ending what an instance has left behind which could not end it itself."""

from __future__ import annotations

import contextlib
import logging
import os
from uuid import UUID

import psutil

__all__ = ["INSTANCE_MARK", "end_leftovers"]

log = logging.getLogger(__name__)

INSTANCE_MARK = "GLOBUS_COMPUTE_INSTANCE"
_PATIENCE = 10.0  # seconds for a killed process to be gone


def end_leftovers(instance: UUID, leader: int) -> None:
    """Kill this user's processes which a dead instance started, and wait for their end.

    They are known by the mark in their environment. Where a process title has been written over
    that, by the session which ``leader`` led.
    """
    found = [process for process in psutil.process_iter() if _is_left(process, instance, leader)]
    for process in found:
        with contextlib.suppress(psutil.Error):
            log.warning("Ending process %d, which an earlier instance left behind", process.pid)
            process.kill()
    _, alive = psutil.wait_procs(found, timeout=_PATIENCE)
    for process in alive:
        log.error("Process %d of an earlier instance does not end", process.pid)


def _is_left(process: psutil.Process, instance: UUID, leader: int) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if process.pid == os.getpid() or process.uids().real != os.getuid():
            return False
        environment = process.environ()
        if INSTANCE_MARK in environment or "PATH" in environment:
            return environment.get(INSTANCE_MARK) == str(instance)
        # The leader is dead: who has its number now leads another session.
        return os.getsid(process.pid) == leader and not psutil.pid_exists(leader)
    return False
