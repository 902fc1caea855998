# SPDX-License-Identifier: Apache-2.0
"""A channel to each worker of a pool, in place of what Parsl's share.

They share queues and a counter of multiprocessing, and so semaphores: a process which is killed
while it has one keeps it for ever, and one of the idle workers always has that of the queue.
The pool would accept tasks, and begin none. On channels, a worker's death concerns its task alone.

This module travels to nodes by value, as source text of one module with :mod:`worker.pool`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import queue
import selectors
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from globus_compute_endpoint.worker.leftovers import end_processes

_NEVER_READY = "its workers end as soon as they are started"
_NO_ROOM = (
    "a node has not the cores or the free memory for a single worker: see cores_per_worker and"
    " mem_per_worker, and what the provider asks for"
)
_FRUITLESS = 3  # times that all workers may end before one of them has asked for a task
_PATIENCE = struct.pack("ll", 30, 0)  # a struct timeval: seconds and microseconds
# In a worker, where nobody else could import this module.
_REVIVE = """
(lambda module: (exec(source, module.__dict__), module.Channel(connection))[1])(
    __import__('types').ModuleType('globus_compute_pool'))
""".strip()


class Dispatcher:
    """The pool's ends of the channels. A worker gets a task once it has none.

    ``give_up`` is called, with the reason, where there will never be a worker: Parsl starts others
    for ever where they end as soon as they start, and waits for ever where there is room for none.
    """

    def __init__(self, source: str, give_up: Callable[[str], None]) -> None:
        self._source = source
        self._give_up = give_up
        self._open = 0  # workers which have not been heard to end
        self._most_open = 0
        self._fruitless = 0  # workers which have ended, since one asked for a task
        self._living = threading.Lock()  # for the workers: held for a moment only
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()  # for what follows, but for the selector
        self.waiting: deque[dict[str, Any]] = deque()  # tasks
        self._idle: deque[_Worker] = deque()
        self._newest: _Worker | None = None
        self._results: deque[bytes | None] = deque()
        self._selector = selectors.DefaultSelector()
        woken, self._wake = Pipe(duplex=False)
        self._selector.register(woken, selectors.EVENT_READ, woken.recv_bytes)

    def stand_in(self, context: Any) -> None:
        """Give the pool ends of channels when it asks the context for queues."""
        ends = iter((_Tasks(self), _Results(self)))
        manager = SimpleNamespace(dict=dict, Queue=_MonitoringQueue)
        context.Queue = lambda: next(ends)
        context.Value = lambda _, value: _Count(value)
        context.Manager = lambda: manager

    def __reduce__(self) -> tuple[Any, ...]:
        """A new worker gets a channel in place of this, as it is started."""
        near, far = Pipe()
        worker = _Worker(near, far)
        with self._living:  # first: somebody may be sending to a dead one, and have the other lock
            for each in self._workers:  # Parsl has seen one die, perhaps
                each.hang_up_if_dead()
        with self._lock:
            self._open += 1
            self._most_open = max(self._open, self._most_open)
            if self._newest is not None:
                self._newest.has_started()
            self._newest = worker
        self._selector.register(near, selectors.EVENT_READ, partial(self._hear, worker))
        return eval, (_REVIVE, {"source": self._source, "connection": far})

    def put_task(self, task: dict[str, Any]) -> None:
        with self._lock:
            self.waiting.append(task)
            self._assign()

    def put_result(self, result: bytes | None) -> None:
        with self._lock:
            self._results.append(result)
            self._wake.send_bytes(b"!")

    def get_result(self, timeout: float | None) -> bytes | None:
        """Wait for a result, and meanwhile for all that workers say: in one thread only."""
        if not self._most_open:  # the pool starts its workers, and then this thread
            self._give_up(_NO_ROOM)
        while not self._results:
            events = self._selector.select(timeout)
            if not events:
                raise queue.Empty
            for key, _ in events:
                key.data()
        return self._results.popleft()

    def _hear(self, worker: _Worker) -> None:
        try:
            said = worker.near.recv_bytes()
        except (EOFError, OSError):
            self._lose(worker)
            return
        with self._lock:
            if worker.pid is None:  # what it says first
                worker.rank, worker.pid = map(int, said.split())
                worker.has_started()
                self._fruitless = 0
                with self._living:
                    self._workers.add(worker)
            else:
                self._results.append(said)
                worker.task = None
            self._idle.append(worker)
            self._assign()

    def _assign(self) -> None:
        while self.waiting and self._idle:
            worker = self._idle.popleft()
            try:
                worker.near.send(self.waiting[0])
            except OSError:  # it is dead or hangs: it gets nothing more, and its end is heard
                worker.hang_up()
                continue
            worker.task = self.waiting.popleft()

    def _lose(self, worker: _Worker) -> None:
        """Answer the task of a worker which has died. The pool itself starts another one."""
        with self._lock:
            self._selector.unregister(worker.near)
            with self._living:
                self._workers.discard(worker)
                worker.near.close()
            if worker in self._idle:
                self._idle.remove(worker)
            self._open -= 1
            self._fruitless += worker.pid is None
            enough = self._fruitless >= _FRUITLESS * self._most_open and not self._workers
        if enough:
            self._give_up(_NEVER_READY)
        if worker.task is not None:
            answer = partial(self._answer_for, worker.task, worker.rank)
            threading.Thread(target=answer, daemon=True).start()

    def _answer_for(self, task: dict[str, Any], rank: int | None) -> None:
        """Answer a lost task, once nothing of it is left where the next one will run."""
        try:
            if task_id := task["context"].get("task"):
                end_processes(task_id)
        finally:
            self.put_result(_loss(task["task_id"], rank))


class _Worker:
    """What the dispatcher knows of a worker process."""

    def __init__(self, near: Connection, far: Connection) -> None:
        self.near = near
        with self._socket() as end:  # a worker which has no task reads at once
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        self._far = far  # held only until the process has it: its death is to be heard
        self.rank: int | None = None
        self.pid: int | None = None
        self.task: dict[str, Any] | None = None

    def has_started(self) -> None:
        self._far.close()

    def hang_up_if_dead(self) -> None:
        """Let its death be heard even if another process holds its end: a fork made by C code."""
        assert self.pid is not None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            self.hang_up()

    def hang_up(self) -> None:
        """Have its end be heard."""
        with self._socket() as end, contextlib.suppress(OSError):  # it has hung up itself
            end.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.near.fileno()))


class _End:
    """What the pool takes for one of its queues; a worker gets its channel."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._dispatcher, "end")


class _Tasks(_End):
    def put(self, task: dict[str, Any]) -> None:
        self._dispatcher.put_task(task)

    def qsize(self) -> int:
        return len(self._dispatcher.waiting)


class _Results(_End):
    def put(self, result: bytes | None) -> None:
        self._dispatcher.put_result(result)

    def get(self, block: bool = True, timeout: float | None = None) -> bytes | None:
        return self._dispatcher.get_result(timeout if block else 0)


class Channel:
    """A worker's end: it gets tasks and puts results."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_announced = False
        self.end = self
        # What a task has forked and left must not keep the channel open.
        os.register_at_fork(after_in_child=connection.close)

    def get(self, timeout: float | None = None) -> Any:
        try:
            if not self._is_announced:
                rank = os.environ["PARSL_WORKER_RANK"]
                self._connection.send_bytes(f"{rank} {os.getpid()}".encode())
                self._is_announced = True
            if not self._connection.poll(timeout):
                raise queue.Empty
            return self._connection.recv()
        except (EOFError, OSError):
            sys.exit("The pool is gone")

    def put(self, result: bytes) -> None:
        self._connection.send_bytes(result)  # and the task is done only when it is sent


class _Count:
    """Counts for the pool; a worker's is its own, since Parsl only logs how many are ready."""

    def __init__(self, value: int) -> None:
        self.value = value
        self._lock = threading.RLock()

    def get_lock(self) -> threading.RLock:
        return self._lock

    def __reduce__(self) -> tuple[Callable[[], SimpleNamespace], tuple[()]]:
        return partial(SimpleNamespace, value=0, get_lock=threading.Lock), ()


class _MonitoringQueue(queue.Queue[Any]):
    """Nobody monitors: a worker gets none."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _loss(task_id: int, rank: int | None) -> bytes:
    from parsl.app.errors import RemoteExceptionWrapper
    from parsl.executors.high_throughput.errors import WorkerLost
    from parsl.serialize import serialize

    try:
        raise WorkerLost(rank, platform.node())  # type: ignore[no-untyped-call]  # Parsl's own
    except WorkerLost:
        error = serialize(RemoteExceptionWrapper(*sys.exc_info()))
    return pickle.dumps({"type": "result", "task_id": task_id, "exception": error})
