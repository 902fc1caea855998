# SPDX-License-Identifier: Apache-2.0
"""Where a process is in the control group tree, and who put it there.

A ``trusted.*`` attribute of a cgroup's directory can be read and written with CAP_SYS_ADMIN alone,
not by the user to whom the cgroup may be delegated: see xattr(7).
"""

from __future__ import annotations

from pathlib import Path

import xattr

__all__ = ["PURE_V2", "directory_of", "read_record", "unit_of", "write_record"]

_ROOT = Path("/sys/fs/cgroup")
_ATTRIBUTE = b"trusted.globus-compute-endpoint"
_SYSTEMD_HIERARCHY = "name=systemd"

PURE_V2 = (_ROOT / "cgroup.controllers").exists()


def directory_of(pid: int) -> Path:
    """The directory of a process's cgroup in the hierarchy which systemd keeps.

    Raises ProcessLookupError where the process is gone, LookupError where it has no such cgroup.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if controllers == _SYSTEMD_HIERARCHY:
            return _ROOT / "systemd" / path.lstrip("/")
        if PURE_V2 and number == "0":
            return _ROOT / path.lstrip("/")
    raise LookupError(f"process {pid} is in no cgroup of systemd's")


def unit_of(pid: int) -> str:
    """The name of the innermost unit around a process, from its cgroup's path."""
    for part in reversed(directory_of(pid).parts):
        if part.endswith((".scope", ".service", ".slice")):
            return part
    raise LookupError(f"process {pid} is in no unit")


def write_record(directory: Path, record: bytes) -> None:
    """Fasten ``record`` (at most 64 KiB) to a cgroup, out of reach of its processes."""
    xattr.set(str(directory), _ATTRIBUTE, record)


def read_record(directory: Path) -> bytes | None:
    """What :func:`write_record` left there; None where nothing is."""
    try:
        return bytes(xattr.get(str(directory), _ATTRIBUTE))
    except OSError:
        return None
