# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: ready, status, alive, stopping."""

from __future__ import annotations

import asyncio
import logging
import os

from systemd import daemon

__all__ = ["keep_watchdog_fed", "tell_ready", "tell_status", "tell_stopping"]

log = logging.getLogger(__name__)


def tell_ready(status: str) -> None:
    _tell(f"READY=1\nSTATUS={status}")


def tell_status(status: str) -> None:
    _tell(f"STATUS={status}")


def tell_stopping() -> None:
    _tell("STOPPING=1\nSTATUS=answering what is under way")


async def keep_watchdog_fed() -> None:
    """Show twice per WatchdogSec= that the event loop turns; returns if there is no watchdog."""
    period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    while period:
        _tell("WATCHDOG=1")
        await asyncio.sleep(period / 2)


def _tell(text: str) -> None:
    try:
        daemon.notify(text)
    except OSError as error:
        # No reason to fail: the work goes on, and systemd has time-outs of its own.
        log.warning("systemd could not be told %r: %s", text, error)
