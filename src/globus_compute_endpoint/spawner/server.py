# SPDX-License-Identifier: Apache-2.0
"""The spawner's loop: one thread, one selector, no asyncio.

A fork in the middle of an asyncio loop would leave the child inside a running loop. Everything
here is done at once or waits in the selector: look-ups, deaths of children, the watchdog.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from globus_compute_endpoint.host import cgroups, notify, packets
from globus_compute_endpoint.host.mounts import is_mount_point
from globus_compute_endpoint.host.paths import holds_work, state_directory
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.spawner.children import Child, Children, start_time_of
from globus_compute_endpoint.spawner.lookup import UserLookUp
from globus_compute_endpoint.spawner.protocol import (
    Answer,
    Identify,
    LookUp,
    Reap,
    Release,
    Remains,
    ScopeRecord,
    Spawn,
    parse_request,
)

__all__ = ["Server"]

log = logging.getLogger(__name__)

_ROOT = 0
_MAX_LOOK_UPS = 32


@dataclass
class _PendingLookUp:
    number: int
    connection: socket.socket
    look_up: UserLookUp


class Server:
    """Serves managers (one at a time, in practice) until SIGTERM."""

    def __init__(self, listener: socket.socket, manager_unit: str, obituary: Path) -> None:
        self._listener = listener
        self._manager_unit = manager_unit
        self._children = Children(manager_unit, obituary)
        self._selector = selectors.DefaultSelector()
        self._look_ups: list[_PendingLookUp] = []
        self._wakeup, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._watchdog = notify.watchdog_interval()

    def serve(self) -> None:
        """Answer requests until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.set_wakeup_fd(self._waker)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._drain_wakeup)
        next_ping = time.monotonic()
        while not self._stopping:
            if self._watchdog is not None and time.monotonic() >= next_ping:
                notify.notify(WATCHDOG=1)
                next_ping = time.monotonic() + self._watchdog
            # One event a turn: a handler may close what the next event of the same batch is about.
            for key, _ in self._selector.select(self._timeout(next_ping))[:1]:
                key.data(key.fileobj)
            self._expire_look_ups()

    def _timeout(self, next_ping: float) -> float | None:
        deadlines = [pending.look_up.deadline for pending in self._look_ups]
        if self._watchdog is not None:
            deadlines.append(next_ping)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _drain_wakeup(self, _: int) -> None:
        os.read(self._wakeup, 4096)

    def _accept(self, _: socket.socket) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError as error:
            log.error("cannot accept a connection: %s", error)
            return
        peer = packets.peer_of(connection)
        unit = _unit_or_nothing(peer.pid)
        if peer.uid != _ROOT or unit != self._manager_unit:
            log.error("refused a connection of process %d, uid %d, in %s", peer.pid, peer.uid, unit)
            connection.close()
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, self._read)

    def _read(self, connection: socket.socket) -> None:
        try:
            packet = packets.receive(connection)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            log.error("the manager's connection failed: %s", error)
            packet = None
        if packet is None:
            self._forget(connection)
            return
        try:
            self._handle(packet, connection)
        finally:
            packet.close()

    def _forget(self, connection: socket.socket) -> None:
        self._children.abandon(connection)
        self._look_ups, gone = (
            [entry for entry in self._look_ups if entry.connection is not connection],
            [entry for entry in self._look_ups if entry.connection is connection],
        )
        for entry in gone:
            self._selector.unregister(entry.look_up.descriptor)
            _finish_quietly(entry.look_up)
        self._selector.unregister(connection)
        connection.close()

    def _handle(self, packet: packets.Packet, connection: socket.socket) -> None:
        try:
            request = parse_request(packet.data)
        except ValidationError as error:
            log.error("refused a malformed request: %s", error)
            self._forget(connection)
            return
        descriptors: tuple[int, ...] = ()
        try:
            match request:
                case LookUp():
                    self._look_up(request, connection)
                    return
                case Spawn():
                    child = self._spawn(request, packet.descriptors, connection)
                    answer = Answer(number=request.number, pid=child.pid)
                    descriptors = (child.pidfd,)
                case Release():
                    self._children.release(request.endpoint_id)
                    answer = Answer(number=request.number)
                case Reap():
                    status = self._reap(request)
                    answer = Answer(number=request.number, wait_status=status)
                case Identify():
                    answer = _identify(request)
                case Remains():
                    answer = self._remains(request)
        except (Problem, OSError, LookupError, ValueError) as error:
            log.error("%s refused: %s", request.operation, error)
            answer = Answer(number=request.number, problem=_as_fields(error))
        self._send(connection, answer, descriptors)

    def _look_up(self, request: LookUp, connection: socket.socket) -> None:
        if len(self._look_ups) >= _MAX_LOOK_UPS:
            raise Problem("TOO_BUSY", "too many users are being looked up at once")
        look_up = UserLookUp(request.uname)
        pending = _PendingLookUp(request.number, connection, look_up)
        self._look_ups.append(pending)
        self._selector.register(
            look_up.descriptor, selectors.EVENT_READ, lambda _: self._looked_up(pending)
        )

    def _looked_up(self, pending: _PendingLookUp) -> None:
        if pending not in self._look_ups:
            return  # its manager went away meanwhile
        self._look_ups.remove(pending)
        self._selector.unregister(pending.look_up.descriptor)
        try:
            user = pending.look_up.finish()
            answer = Answer(number=pending.number, user=user)
        except (OSError, ValueError) as error:  # TimeoutError is one
            answer = Answer(number=pending.number, problem=_as_fields(error))
        self._send(pending.connection, answer)

    def _expire_look_ups(self) -> None:
        now = time.monotonic()
        for pending in [entry for entry in self._look_ups if entry.look_up.deadline <= now]:
            self._looked_up(pending)

    def _spawn(self, request: Spawn, descriptors: list[int], connection: socket.socket) -> Child:
        if len(descriptors) != 2:
            raise Problem("BAD_REQUEST", "a spawn request brings two descriptors")
        document, control = descriptors
        child = self._children.fork(request, document, control, connection)
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda _: self._ended(child))
        return child

    def _ended(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        self._children.reap(child)

    def _reap(self, request: Reap) -> int | None:
        """The manager's pidfd may have told it of the end before ours told us."""
        child = self._children.ended_but_not_reaped(request.endpoint_id, request.pid)
        if child:
            self._ended(child)
        return self._children.wait_status(request.endpoint_id, request.pid)

    def _remains(self, request: Remains) -> Answer:
        """A process of the manager's could not look into the user's directory."""
        directory = state_directory(request.uid, request.endpoint_id)
        # Its owner could have mounted a file system there, whose server lets us wait for ever.
        work = not is_mount_point(directory) and holds_work(directory)
        status = self._children.last_wait_status(request.endpoint_id)
        return Answer(number=request.number, work=work, wait_status=status)

    def _send(
        self, connection: socket.socket, answer: Answer, descriptors: tuple[int, ...] = ()
    ) -> None:
        try:
            data = answer.model_dump_json().encode()
            socket.send_fds(connection, [data], list(descriptors))
        except OSError as error:  # the manager went away, or does not read what it asked for
            log.error("could not answer the manager: %s", error)
            self._forget(connection)


def _unit_or_nothing(pid: int) -> str | None:
    try:
        return cgroups.unit_of(pid)
    except (LookupError, OSError):
        return None


def _identify(request: Identify) -> Answer:
    data = cgroups.read_record(cgroups.directory_of(request.pid))
    if not data:
        return Answer(number=request.number)
    record = ScopeRecord.model_validate_json(data)
    try:
        is_alive = start_time_of(record.pid) == record.start_time  # else the pid is another's
    except FileNotFoundError:
        is_alive = False
    return Answer(number=request.number, record=record, is_alive=is_alive)


def _as_fields(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, Problem):
        return error.code, error.message, error.hint
    return "SPAWNER_FAILED", str(error), "see the journal of the spawner's unit"


def _finish_quietly(look_up: UserLookUp) -> None:
    look_up.deadline = 0.0
    try:
        look_up.finish()
    except TimeoutError:
        log.debug("dropped a look-up whose manager went away")
