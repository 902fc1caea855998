# SPDX-License-Identifier: Apache-2.0
"""Talk to the service manager: readiness, status, watchdog, and the file descriptor store.

See sd_notify(3). Outside systemd ($NOTIFY_SOCKET unset) each call does nothing.
"""

from __future__ import annotations

import asyncio
import os

from systemd import daemon

__all__ = ["keep_watchdog", "notify", "remove_stored", "store", "stored", "watchdog_interval"]


def notify(**fields: str | int) -> None:
    """Send ``FIELD=value`` lines in one datagram, e.g. ``notify(READY=1, STATUS="serving")``.

    A value cannot smuggle in a field of its own: PID 1 obeys ``MAINPID=`` and ``WATCHDOG=trigger``
    of a root process.
    """
    daemon.notify("\n".join(f"{key}={_one_line(value)}" for key, value in fields.items()))


def _one_line(value: str | int) -> str:
    return "".join(each if each.isprintable() else " " for each in str(value))


def store(name: str, *descriptors: int) -> None:
    """Have systemd keep the descriptors under ``name`` across our restarts.

    ``FDPOLL=0``: systemd shall not drop a pidfd or socket which has become readable or hung up; we
    want to see it after the restart.
    """
    daemon.notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", False, os.getpid(), list(descriptors))


def remove_stored(name: str) -> None:
    """Have systemd close what it keeps under ``name``."""
    notify(FDSTOREREMOVE=1, FDNAME=name)


def stored() -> dict[str, int]:
    """Take over the descriptors which systemd kept, by name, and forget the environment's word."""
    by_number: dict[int, str] = daemon.listen_fds_with_names(unset_environment=True)
    return {name: descriptor for descriptor, name in by_number.items()}


def watchdog_interval() -> float | None:
    """Seconds between pings: half of ``WatchdogSec=``, or None where none is asked for."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    if not microseconds or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


async def keep_watchdog() -> None:
    """Ping the watchdog from the event loop for as long as this task lives.

    The ping comes from the loop which does the work, so a stuck loop is noticed.
    """
    interval = watchdog_interval()
    while interval is not None:
        notify(WATCHDOG=1)
        await asyncio.sleep(interval)
