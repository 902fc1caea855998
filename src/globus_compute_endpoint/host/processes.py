# SPDX-License-Identifier: Apache-2.0
"""Which machine this is, and whether a process which was once written down still runs.

A pid alone says little: it is given out again, and others count on other machines, which may
share a home directory. See proc(5), machine-id(5).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Machine",
    "ProcessIdentity",
    "open_process",
    "send_signal",
    "this_machine",
    "wait_for_end",
]

_STARTTIME = 22 - 3  # of proc_pid_stat(5), counted from what follows the command's name


@dataclass(frozen=True)
class Machine:
    """A machine, and the time since it was booted last.

    Diskless nodes of a cluster may have one machine-id between them, hence the host name.
    """

    machine_id: str
    host: str
    boot_id: str


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told from a later one with the same pid by its start time (clock ticks)."""

    pid: int
    start_time: int

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Return the identity of this process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of a process which has not been reaped yet: ours, or a child."""
        started = _start_time(pid)
        assert started is not None
        return cls(pid, started)


def this_machine() -> Machine:
    """Return the machine that we are on."""
    machine_id = ""
    with contextlib.suppress(OSError):  # some containers have none
        machine_id = Path("/etc/machine-id").read_text().strip()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Machine(machine_id, socket.gethostname(), boot_id)


@contextlib.contextmanager
def open_process(process: ProcessIdentity) -> Iterator[int | None]:
    """Hold on to a process by a pidfd; None where it has ended, whoever has its pid now."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Asked after the pidfd was opened: what it refers to cannot be replaced any more.
        same = _start_time(process.pid) == process.start_time
        yield pidfd if same and not _has_ended(pidfd) else None
    finally:
        os.close(pidfd)


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to a process, which may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def wait_for_end(pidfd: int, seconds: float) -> bool:
    """Wait for a process to end; return whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _has_ended(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return wait_for_end(pidfd, 0)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[_STARTTIME])
