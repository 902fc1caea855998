# SPDX-License-Identifier: Apache-2.0
"""Parsl's interchange, as a process which ends with the endpoint and hears of lost blocks.

    python -m globus_compute_endpoint.engines.interchange PID

Parsl's own outlives whoever has started it, and learns of a block's end by its silence alone.
"""

from __future__ import annotations

import logging
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
    "KEEP_TASKS",
    "RESUME_BLOCKS",
    "command",
]

#: Commands besides Parsl's. Its own interchange, if someone prefers that, answers None to each.
ENDED_BLOCKS = "globus-compute-ended-blocks"
CUT_OFF_MANAGERS = "globus-compute-cut-off-managers"
HOLD_IDLE_BLOCKS = "globus-compute-hold-idle-blocks"  # answered with those which have no tasks
RESUME_BLOCKS = "globus-compute-resume-blocks"
HOSTS = "globus-compute-hosts"  # where managers are
KEEP_TASKS = "globus-compute-keep-tasks"  # from managers which come later, too
log = logging.getLogger(Interchange.__module__)  # which Parsl writes to interchange.log

_GRACE = 1.0  # seconds for results which a block had sent before its end
# Seconds in which a manager connects again, at once if it lives, while others of its block are
# there. Of one without any, the scheduler knows more.
_CONNECTING = 20.0


def command() -> list[str]:
    """Return the command of an interchange which ends when this process does."""
    return [sys.executable, "-P", "-m", __name__, str(os.getpid())]


class _AttentiveInterchange(Interchange):
    """Gives up managers which have gone, and holds blocks which are to be cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._monitor = _monitored(self.manager_sock)
        self._connections: set[int] = set()  # descriptors
        self._connected: dict[bytes, int] = {}  # managers, and by which
        self._cut_off: dict[bytes, float] = {}  # managers, and since when
        self._noted_at = 0.0
        self._receive_frames = self.manager_sock.recv_multipart
        sock: Any = self.manager_sock
        sock.recv_multipart = self._receive_from_manager
        self._keeps_tasks = False
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
        if self._keeps_tasks:
            return
        for name in interesting_managers if self._held else ():
            manager = self._ready_managers.get(name)
            if manager is not None and manager["block_id"] in self._held:
                manager["active"] = False  # it may have come after its block was held
        super().process_tasks_to_send(interesting_managers, monitoring_radio)

    def expire_bad_managers(self, interesting_managers: Any, monitoring_radio: Any) -> None:
        now = time.monotonic()
        if now >= self._noted_at + 1.0:
            self._noted_at = now
            self._note_cut_off(now)
        if not self.socks.get(self.manager_sock):
            self._give_up(now)
        super().expire_bad_managers(interesting_managers, monitoring_radio)

    def _reply(self, request: object) -> object:
        match request:
            case (str(name), list(blocks)) if name == ENDED_BLOCKS:
                due = time.monotonic() + _GRACE
                self._ended |= {each: self._ended.get(each, due) for each in blocks}
            case (str(name), list(blocks)) if name == HOLD_IDLE_BLOCKS:
                return self._hold_idle(blocks)
            case (str(name), list(blocks)) if name == RESUME_BLOCKS:
                self._resume(set(blocks))
            case str(name) if name == KEEP_TASKS:
                self._keeps_tasks = True
            case str(name) if name == CUT_OFF_MANAGERS:
                self._note_cut_off(time.monotonic())
                return max(0, len(self._cut_off) - len(self._nameless()))
            case str(name) if name == HOSTS:
                return self._hosts()
            case _:
                return None
        return True

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

    def _give_up(self, now: float) -> None:
        over = {block for block, due in self._ended.items() if due <= now}
        lost = {name for name, since in self._cut_off.items() if since < now - _CONNECTING}
        if self._nameless():
            lost.clear()
        ready = self._ready_managers
        lively = {ready[name]["block_id"] for name in ready.keys() - self._cut_off} if lost else ()
        for name, manager in ready.items():
            if manager["block_id"] in over or (name in lost and manager["block_id"] in lively):
                manager["last_heartbeat"] = 0.0
        for block in over:
            del self._ended[block]
            self._held.discard(block)

    def _nameless(self) -> set[int]:
        """Return connections which may be those of managers that have called again.

        These say nothing before their next heartbeat, and are not to be told from strangers'.
        """
        return self._connections - set(self._connected.values())

    def _hosts(self) -> dict[str, str]:
        return {name.decode(): each["hostname"] for name, each in self._ready_managers.items()}

    def _receive_from_manager(self) -> list[bytes]:
        frames: Any = self._receive_frames(copy=False)
        self._connected[frames[0].bytes] = frames[0].get(zmq.SRCFD)
        return [each.bytes for each in frames]

    def _note_cut_off(self, now: float) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._connections.add(event["value"])
            else:
                self._connections.discard(event["value"])
                for name in [n for n, by in self._connected.items() if by == event["value"]]:
                    del self._connected[name]  # the next connection may get this number
        self._connected = {n: by for n, by in self._connected.items() if n in self._ready_managers}
        self._cut_off = {
            name: self._cut_off.get(name, now)
            for name in self._ready_managers
            if self._connected.get(name) not in self._connections
        }


def _monitored(manager_sock: Any) -> Any:
    """Return a socket which tells of connections.

    Of as many as may come between two questions: where it takes no more, nothing else is sent or
    received either, and the port is open to whoever reaches it.
    """
    address = "inproc://globus-compute-connections"
    manager_sock.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
    monitor = manager_sock.context.socket(zmq.PAIR)
    monitor.set_hwm(0)
    monitor.connect(address)
    return monitor


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
    options = pickle.load(sys.stdin.buffer)  # noqa: S301  (our parent's)
    try:
        interchange = _AttentiveInterchange(**options)
    except Exception:
        log.exception("The interchange cannot be started")  # our parent reads the last line
        raise
    interchange.start()


if __name__ == "__main__":
    _main()
