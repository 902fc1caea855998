# SPDX-License-Identifier: Apache-2.0
"""Parsl's interchange, as a process which ends with the endpoint and hears of lost blocks.

    python -m globus_compute_endpoint.engines.interchange PID

Parsl's own outlives whoever has started it, and learns of a block's end by its silence alone.
"""

from __future__ import annotations

import os
import pickle
import select
import sys
import threading
import time
from typing import Any

import zmq
from parsl.executors.high_throughput.interchange import Interchange
from parsl.utils import setproctitle
from zmq.utils.monitor import recv_monitor_message

__all__ = [
    "CUT_OFF_MANAGERS",
    "ENDED_BLOCKS",
    "HOLD_IDLE_BLOCKS",
    "HOSTS",
    "RESUME_BLOCKS",
    "command",
]

#: Commands besides Parsl's. Its own interchange, if someone prefers that, answers None to each.
ENDED_BLOCKS = "globus-compute-ended-blocks"
CUT_OFF_MANAGERS = "globus-compute-cut-off-managers"
HOLD_IDLE_BLOCKS = "globus-compute-hold-idle-blocks"  # answered with those which have no tasks
RESUME_BLOCKS = "globus-compute-resume-blocks"
HOSTS = "globus-compute-hosts"  # where managers are
_GRACE = 1.0  # seconds for results which a block had sent before its end


def command() -> list[str]:
    """Return the command of an interchange which ends when this process does."""
    return [sys.executable, "-P", "-m", __name__, str(os.getpid())]


class _AttentiveInterchange(Interchange):
    """Gives up managers of blocks which have ended, and holds blocks which are to be cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        self._monitor = self.manager_sock.get_monitor_socket(events)
        self._connections: set[int] = set()  # descriptors
        self._ended: dict[str, float] = {}  # block, and when to give it up
        self._held: set[str] = set()  # blocks which get no task any more
        self._interesting: set[bytes] = set()  # managers, as Parsl calls those to be looked at
        self._request: Any = None
        channel: Any = self.command_channel
        self._receive = channel.recv_pyobj
        channel.recv_pyobj = lambda: self._request  # what is not for us is Parsl's

    def process_command(self, monitoring_radio: Any) -> None:
        if self.socks.get(self.command_channel) != zmq.POLLIN:
            return
        self._request = self._receive()
        reply = self._reply(self._request)
        if reply is None:
            super().process_command(monitoring_radio)
        else:
            self.command_channel.send_pyobj(reply)

    def process_tasks_to_send(self, interesting_managers: Any, monitoring_radio: Any) -> None:
        self._interesting = interesting_managers
        for name in interesting_managers if self._held else ():
            manager = self._ready_managers.get(name)
            if manager is not None and manager["block_id"] in self._held:
                manager["active"] = False  # it may have come after its block was held
        super().process_tasks_to_send(interesting_managers, monitoring_radio)

    def expire_bad_managers(self, interesting_managers: Any, monitoring_radio: Any) -> None:
        if self._ended and not self.socks.get(self.manager_sock):
            self._give_up()
        super().expire_bad_managers(interesting_managers, monitoring_radio)

    def _reply(self, request: object) -> object:
        match request:
            case (str(name), list(blocks)) if name == ENDED_BLOCKS:
                due = time.monotonic() + _GRACE
                self._ended |= {each: self._ended.get(each, due) for each in blocks}
                return True
            case (str(name), list(blocks)) if name == HOLD_IDLE_BLOCKS:
                return self._hold_idle(blocks)
            case (str(name), list(blocks)) if name == RESUME_BLOCKS:
                self._resume(set(blocks))
                return True
            case str(name) if name == CUT_OFF_MANAGERS:
                return self._cut_off()
            case str(name) if name == HOSTS:
                return self._hosts()
        return None

    def _hold_idle(self, blocks: list[str]) -> list[str]:
        busy = {each["block_id"] for each in self._ready_managers.values() if each["tasks"]}
        idle = [block for block in blocks if block not in busy]
        self._held.update(idle)
        self._interesting.update(self._ready_managers)  # to be held before the next is sent a task
        return idle

    def _resume(self, blocks: set[str]) -> None:
        self._held -= blocks
        for name, manager in self._ready_managers.items():
            if manager["block_id"] in blocks:
                manager["active"] = True
                self._interesting.add(name)

    def _give_up(self) -> None:
        now = time.monotonic()
        over = {block for block, due in self._ended.items() if due <= now}
        for manager in self._ready_managers.values():
            if manager["block_id"] in over:
                manager["last_heartbeat"] = 0.0
        for block in over:
            del self._ended[block]
            self._held.discard(block)

    def _hosts(self) -> dict[str, str]:
        return {name.decode(): each["hostname"] for name, each in self._ready_managers.items()}

    def _cut_off(self) -> int:
        # Which connection is whose is not to be known; some may be no manager's.
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._connections.add(event["value"])
            else:
                self._connections.discard(event["value"])
        return max(0, len(self._ready_managers) - len(self._connections))


def _end_with(parent: int) -> None:
    # Ctrl-C in a terminal goes to the whole process group there: it is the endpoint's to end us.
    os.setpgid(0, 0)
    watched = os.pidfd_open(os.getppid())
    if os.getppid() != parent:
        sys.exit(1)

    def watch() -> None:
        select.select([watched], [], [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _main() -> None:
    _end_with(int(sys.argv[1]))
    setproctitle("parsl: HTEX interchange")
    _AttentiveInterchange(**pickle.load(sys.stdin.buffer)).start()  # noqa: S301  (our parent's)


if __name__ == "__main__":
    _main()
