# SPDX-License-Identifier: Apache-2.0
"""How systemd says that the unit of a system endpoint is."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from globus_compute_endpoint.user_endpoint.instance import EndpointState

__all__ = ["UnitStatus", "unit_status"]

_TIMEOUT = 20.0
_PROPERTIES = "ActiveState,Result,StatusText,MainPID,StateChangeTimestampMonotonic"


@dataclass(frozen=True)
class UnitStatus:
    """``active`` and ``result`` are systemd's words, ``text`` the unit's own; ``pid`` 0: none."""

    active: str
    result: str
    text: str
    pid: int
    since: datetime | None

    def state(self, *, registered: bool) -> EndpointState:
        """Return what ``list`` says of its endpoint."""
        match self.active:
            case "active" | "reloading" | "deactivating":
                return EndpointState.RUNNING
            case "failed" | "activating":  # also between two attempts
                return EndpointState.DISCONNECTED
        return EndpointState.STOPPED if registered else EndpointState.INITIALIZED


def unit_status(unit: str) -> UnitStatus:
    """Ask systemd, which need not know the unit."""
    shown = subprocess.run(
        ["systemctl", "show", f"--property={_PROPERTIES}", unit],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    said = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    return UnitStatus(
        active=said.get("ActiveState", "inactive"),
        result=said.get("Result", "success"),
        text=said.get("StatusText", ""),
        pid=int(said.get("MainPID", 0)),
        since=_time(int(said.get("StateChangeTimestampMonotonic", 0))),
    )


def _time(microseconds: int) -> datetime | None:
    if not microseconds:
        return None
    ago = time.clock_gettime(time.CLOCK_MONOTONIC) - microseconds / 1e6
    return datetime.fromtimestamp(round(time.time() - ago), UTC)
