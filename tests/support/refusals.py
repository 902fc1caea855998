# SPDX-License-Identifier: Apache-2.0
"""Disks which refuse: full, over a quota, read-only or broken, for one process alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

_CALLS = "pwrite64,fsync,fdatasync"


@contextlib.contextmanager
def refused_writes(process: int, error: str) -> Iterator[None]:
    """Have the kernel refuse each page that a process writes, and each that it synchronizes."""
    inject = f"inject={_CALLS}:error={error}"
    command = ["strace", "-f", "-p", str(process), "-e", inject, "-o", "/dev/null"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        assert b"attached" in strace.stderr.readline()
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)
