# SPDX-License-Identifier: Apache-2.0
"""What is mounted where, told without asking the file systems themselves."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_mount_point"]

_MOUNT_POINT = 4  # the field of proc_pid_mountinfo(5)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted at ``path`` itself.

    Unlike stat(2), this does not wait for the server of a FUSE or network file system.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return str(path) in (_unescaped(line.split(" ")[_MOUNT_POINT]) for line in lines)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
