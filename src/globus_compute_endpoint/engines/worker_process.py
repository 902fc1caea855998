# SPDX-License-Identifier: Apache-2.0
"""One worker process, and the conversation with it over a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import marshal
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from setproctitle import setproctitle

from globus_compute_endpoint.host.forks import default_in_forks
from globus_compute_endpoint.worker import task as worker

__all__ = ["WorkerProcess", "begin"]

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("!Q")
_STARTED = _LENGTH.pack(0)  # an empty frame, where a result would be
_CHUNK = 1 << 18
_PR_SET_PDEATHSIG = 1
_CONVERSATION = 3  # the descriptor of a fresh worker's end
_BEGIN = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from {__name__} import begin
begin(sys.argv[2])
"""


class WorkerProcess:
    """A process which runs one task at a time.

    It is forked, which is quick, but safe only while this process has one thread; or, if
    ``fresh``, it is a new interpreter.

    ``on_start``, ``on_result`` and ``on_death`` are called on the event loop: when the worker
    begins with what it was sent, with the result, and with the exit status,
    minus the signal's number, or None where it is unknown.
    """

    def __init__(
        self,
        title: str,
        on_start: Callable[[WorkerProcess], None],
        on_result: Callable[[WorkerProcess, bytes], None],
        on_death: Callable[[WorkerProcess, int | None], None],
        *,
        fresh: bool = False,
    ) -> None:
        self._on_start = on_start
        self._on_result = on_result
        self._on_death = on_death
        self._incoming = bytearray()
        self._outgoing = bytearray()
        #: Whether the worker has begun with what it was sent last.
        self.started = False
        self._loop = asyncio.get_running_loop()
        self._dead: asyncio.Future[None] = self._loop.create_future()
        self._socket, theirs = socket.socketpair()
        self.pid = _spawn(theirs, title) if fresh else os.fork()
        if self.pid == 0:
            _child(theirs, title)
        theirs.close()
        self._socket.setblocking(False)
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._socket, self._readable)
        self._loop.add_reader(self._pidfd, self._ended)

    def run(self, task_id: str, body: bytes, context: dict[str, Any]) -> None:
        """Send a task to the worker, which must be idle."""
        self.started = False
        message = marshal.dumps((task_id, body, context))
        self._outgoing += _LENGTH.pack(len(message)) + message
        self._writable()

    def kill(self) -> None:
        """Kill the worker and what its task has started, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # before it has its own group
            os.kill(self.pid, signal.SIGKILL)

    async def gone(self, seconds: float) -> bool:
        """Wait until the process has ended, so long at most; return whether it has."""
        await asyncio.wait([self._dead], timeout=seconds)
        return self._dead.done()

    def _writable(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._writable)
            return
        except OSError:
            self._outgoing.clear()  # it died: _ended tells
        self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            chunk = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._loop.remove_reader(self._socket)
            if not self._dead.done():
                # The socket's end without the process's: a task has closed our descriptor.
                self.kill()
            return
        self._incoming += chunk
        while len(self._incoming) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming)
            end = _LENGTH.size + length
            if len(self._incoming) < end:
                return
            packed = bytes(self._incoming[_LENGTH.size : end])
            del self._incoming[:end]
            if packed:
                self._on_result(self, packed)
            else:
                self.started = True
                self._on_start(self)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.kill()  # what its task has left behind; first, while the pid is surely still ours
        status: int | None = None
        with contextlib.suppress(ChildProcessError):
            _, raw = os.waitpid(self.pid, 0)
            status = os.waitstatus_to_exitcode(raw)
        self._dead.set_result(None)
        self._last_words()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._on_death(self, status)

    def _last_words(self) -> None:
        """Read a result which was sent just before the end."""
        before = -1
        while before != len(self._incoming):
            before = len(self._incoming)
            self._readable()


def _spawn(conversation: socket.socket, title: str) -> int:
    # The path goes along as an argument: in PYTHONPATH it would reach the tasks' own programs.
    arguments = [sys.executable, "-c", _BEGIN, json.dumps(sys.path), title]
    passed = [(os.POSIX_SPAWN_DUP2, conversation.fileno(), _CONVERSATION)]
    return os.posix_spawn(sys.executable, arguments, os.environ, file_actions=passed)


def begin(title: str) -> NoReturn:
    """Be a worker in a fresh interpreter, which :func:`_spawn` has started."""
    _child(socket.socket(fileno=_CONVERSATION), title)


def _child(conversation: socket.socket, title: str) -> NoReturn:
    """Be the worker; never returns."""
    status = 1
    try:
        _become_worker(conversation, title)
        _serve(conversation)
        status = 0
    except BaseException:  # logged: the parent learns only the exit status
        log.exception("A worker process failed")
    finally:
        os._exit(status)


def _become_worker(conversation: socket.socket, title: str) -> None:
    # The parent's loop, broker connections and files are none of ours.
    keep = conversation.fileno()
    signal.set_wakeup_fd(-1)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # A stop of the whole scope signals all at once: the endpoint decides when workers end. A
    # handler, not SIG_IGN, since programs which a task starts would inherit that.
    signal.signal(signal.SIGTERM, _stay)
    default_in_forks({signal.SIGTERM})
    os.setpgid(0, 0)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    logging.getLogger().handlers.clear()  # their files are closed; stderr is left
    logging.basicConfig(level=logging.WARNING)
    setproctitle(title)


def _stay(_number: int, _frame: object) -> None:
    pass


def _serve(conversation: socket.socket) -> None:
    with conversation.makefile("rb", buffering=_CHUNK) as stream:
        while header := stream.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(header)
            message = stream.read(length)
            if len(message) < length:
                return  # the parent has gone
            task_id, body, context = marshal.loads(message)  # noqa: S302  (from our own parent)
            conversation.sendall(_STARTED)
            packed = worker.execute(task_id, body, context)
            conversation.sendall(_LENGTH.pack(len(packed)) + packed)
