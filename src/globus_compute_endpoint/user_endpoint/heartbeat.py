# SPDX-License-Identifier: Apache-2.0
"""Telling the services that we live, and noticing that nobody needs us any more."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from globus_compute_common.messagepack import pack
from globus_compute_common.messagepack.message_types import EPStatusReport, TaskTransition
from globus_compute_common.tasks import ActorName, TaskState
from globus_compute_sdk.version import __version__ as sdk_version

from globus_compute_endpoint import __version__
from globus_compute_endpoint.amqp import Publisher, Unroutable

__all__ = ["Heartbeat", "IdleWatch", "status_report", "who_we_are"]

log = logging.getLogger(__name__)


_STARTS = 512  # tasks in one report: the services take note of each, and of no more


def status_report(
    endpoint_id: str, state: dict[str, Any], begun: Mapping[str, int] | None = None
) -> bytes:
    """Return a packed status report. ``begun``: tasks, and since when; ns since the epoch."""
    statuses = {
        task_id: [TaskTransition(timestamp=at, state=TaskState.EXEC_START, actor=ActorName.WORKER)]
        for task_id, at in (begun or {}).items()
    }
    report = EPStatusReport(
        endpoint_id=UUID(endpoint_id), global_state=state, task_statuses=statuses
    )
    packed: bytes = pack(report)
    return packed


def who_we_are() -> dict[str, Any]:
    """Return what a report says about this process."""
    user = str(os.getuid())
    with contextlib.suppress(KeyError, OSError):
        user = getpass.getuser()
    return {
        "endpoint_version": __version__,
        "sdk_version": sdk_version,
        "python_version": platform.python_version(),
        "hostname": socket.gethostname(),
        "local_user": user,
        "pid": os.getpid(),
    }


class Heartbeat:
    """Publishes a status report each ``period`` seconds, and one of farewell.

    ``on_taken`` is called when the broker has one.
    """

    def __init__(
        self,
        endpoint_id: str,
        period: float,
        publisher: Publisher,
        state: Callable[[], dict[str, Any]],
        *,
        on_beat: Callable[[], None],
        on_taken: Callable[[], None],
    ) -> None:
        self._endpoint_id = endpoint_id
        self._period = period
        self._publisher = publisher
        self._state = state
        self._on_beat = on_beat
        self._on_taken = on_taken
        self._last: asyncio.Future[None] | None = None
        self._begun: dict[str, int] = {}

    def note_start(self, task_id: str) -> None:
        """Have a report say that a task has begun, unless it has ended by then."""
        self._begun[task_id] = time.time_ns()

    def note_end(self, task_id: str) -> None:
        """A task needs no mention any more."""
        self._begun.pop(task_id, None)

    async def run(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self.beat()
            self._on_beat()
            due = max(due + self._period, loop.time())
            await asyncio.sleep(due - loop.time())

    def beat(self) -> None:
        """Publish a report now; one which still waits for a connection is dropped for it."""
        self._publish({"heartbeat_period": self._period, "active": True})

    async def farewell(self, seconds: float) -> None:
        """Tell that we stop; give up after so long."""
        self._publish({"heartbeat_period": 0, "active": False})
        assert self._last is not None
        with contextlib.suppress(TimeoutError, Unroutable):
            await asyncio.wait_for(self._last, seconds)

    def _publish(self, more: dict[str, Any]) -> None:
        if self._last is not None and not self._last.done():
            self._last.cancel()
        begun = dict(islice(self._begun.items(), _STARTS))
        report = status_report(self._endpoint_id, self._state() | more, begun)
        self._last = self._publisher.publish(report)
        self._last.add_done_callback(partial(self._noted, begun))

    def _noted(self, begun: Mapping[str, int], future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            log.warning("A heartbeat was not taken: %s", error)
            return
        self._on_taken()
        for task_id in begun:
            self._begun.pop(task_id, None)


class IdleWatch:
    """Counts heartbeats in which nothing happened.

    ``soft``: how many without any outstanding task end the endpoint (0: never, whatever
    ``hard`` is); ``hard``: how many without any movement, though tasks are outstanding.
    """

    def __init__(self, soft: int, hard: int) -> None:
        self._soft = soft
        self._hard = max(hard, soft)
        self._still = 0
        self._seen = -1

    def beat(self, outstanding: int, movements: int) -> str | None:
        """Note a heartbeat; return why the endpoint should end, or None.

        ``movements`` is any number which changes when a task comes or is done.
        """
        if movements != self._seen:
            self._seen = movements
            self._still = 0
            return None
        self._still += 1
        if not self._soft:
            return None
        if not outstanding and self._still >= self._soft:
            return f"idle for {self._still} heartbeats"
        if self._still >= self._hard:
            return f"nothing moved in {self._still} heartbeats, with {outstanding} tasks here"
        return None
