# SPDX-License-Identifier: Apache-2.0
"""A researcher who does not stop: runs on the laptop, with the stock SDK and nothing else.

    driver.py ENDPOINT LEDGER NAME SEED ENGINE…

One Executor for each engine. Commands come as JSON lines on standard input, each has one answer on
standard output. What becomes of each task goes to LEDGER, a JSON object a line: its ``event`` is
``submitted``, ``accepted`` (the services have answered with an id), ``succeeded``, ``failed``,
``unanswered`` (the SDK gave up before it had an id) or ``delivered`` (a result came by AMQP).

The SDK gives futures up, or forgets them, where its connection to the broker was cut at the wrong
moment. The task is none the less accepted: then the services are asked for its result.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import uuid
from collections import deque
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from globus_compute_common import messagepack
from globus_compute_sdk import Client, Executor
from globus_compute_sdk.errors import TaskExecutionFailed, TaskPending
from globus_compute_sdk.sdk import executor as sdk_executor
from globus_sdk import GlobusError

# Seconds that a task takes, and how many of a hundred take that long.
LENGTHS = ((0.0, 70), (0.5, 20), (1.0, 7), (3.0, 3))
RAISING = 0.05  # of all tasks
SWEEP = 0.1  # seconds between two looks at what the SDK has been answered
MOST_OPEN = 100  # of one engine; an outage is not to pile up more
LATE = 10.0  # seconds after which the services are asked what became of a task
ASK_AGAIN = 2.0  # seconds between two times
ASK_FOR = 25  # tasks at a time


def work(key: str, seconds: float, deed: str) -> str:
    import os
    import signal
    import socket
    import time

    # One write, appended: what has run can be counted, whoever was killed meanwhile.
    line = f"{key} {os.getpid()} {time.time():.3f} {socket.gethostname()}\n"
    record = os.open(os.path.expanduser("~/executions"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(record, line.encode())
    os.close(record)
    time.sleep(seconds)
    if deed == "raise":
        raise ValueError(f"{key} was asked to fail")
    if deed == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    hoard = []
    while deed == "hoard":  # until the kernel has had enough
        hoard.append(os.urandom(16 << 20))
    return key


class Ledger:
    """What happened, in order; a line is written at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def write(self, event: str, **what: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"at": time.time(), "event": event, **what}) + "\n")


class Stream:
    """Tasks to one engine: what is open, and the Executor of the moment."""

    def __init__(self, name: str, endpoint: str, engine: str, client: Client, ledger: Ledger):
        self.name = name
        self._endpoint = endpoint
        self.engine = engine
        self._client = client
        self._ledger = ledger
        self._group: uuid.UUID | None = None  # the services' choice, at the first submit
        self._function = client.register_function(work)
        self._count = 0
        self._lock = threading.RLock()
        self.open: dict[str, Future[Any]] = {}
        self._submitted: dict[str, float] = {}
        self._accepted: dict[str, str] = {}
        self._executor = self._make()
        self._asked = 0.0
        # When tasks which have succeeded were submitted, and when they ended.
        self.successes: deque[tuple[float, float]] = deque(maxlen=1000)

    def _make(self) -> Executor:
        return Executor(
            endpoint_id=self._endpoint,
            client=self._client,
            task_group_id=self._group,
            user_endpoint_config={"engine": self.engine},
            api_burst_limit=50,
            api_burst_window_s=1,
        )

    def submit(self, seconds: float, deed: str) -> None:
        with self._lock:
            if len(self.open) >= MOST_OPEN or self._executor._stopped:
                return
            self._count += 1
            key = f"{self.name}-{self._count:06d}"
            self._ledger.write("submitted", key=key, deed=deed)
            try:
                future = self._executor.submit_to_registered_function(
                    self._function, args=(key, seconds, deed)
                )
            except RuntimeError as error:  # it stopped just now
                self._ledger.write("unanswered", key=key, reason=str(error))
                return
            self._submitted[key] = time.time()
            self.open[key] = future

    def recovered(self, since: float) -> float | None:
        """When the first task which was submitted after a moment has succeeded."""
        ends = [ended for submitted, ended in list(self.successes) if submitted > since]
        return min(ends, default=None)

    def sweep(self) -> None:
        """Write down what was accepted and what has ended; ask for what the SDK gave up."""
        with self._lock:
            for key, future in list(self.open.items()):
                self._accept(key, future)
                if future.done():
                    self._end(key, future)
            if time.monotonic() > self._asked + ASK_AGAIN:
                self._asked = time.monotonic()
                self._replace()
                self._ask()

    def _accept(self, key: str, future: Future[Any]) -> None:
        if key not in self._accepted and (task := getattr(future, "task_id", None)):
            self._accepted[key] = str(task)
            self._ledger.write("accepted", key=key, task=str(task))

    def _end(self, key: str, future: Future[Any]) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            self._succeed(key, future.result())
        elif isinstance(error, TaskExecutionFailed):
            self._close(key, "failed", reason=str(error))
        elif key not in self._accepted:
            self._close(key, "unanswered", reason=f"{type(error).__name__}: {error}")

    def _succeed(self, key: str, value: Any) -> None:
        self.successes.append((self._submitted[key], time.time()))
        self._close(key, "succeeded", value=value)

    def _close(self, key: str, event: str, **what: Any) -> None:
        self._ledger.write(event, key=key, **what)
        del self.open[key], self._submitted[key]
        self._accepted.pop(key, None)

    def _replace(self) -> None:
        """Make an Executor where the last one has given up."""
        if self._executor._stopped:
            self._group = self._executor.task_group_id
            self._executor = self._make()

    def _ask(self) -> None:
        """Ask the services for what should have come by now; at most some at a time."""
        late = time.time() - LATE
        keys = [key for key in self._accepted if self._submitted[key] < late]
        for key in keys[:ASK_FOR]:
            try:
                value = self._client.get_result(self._accepted[key])
            except TaskPending:
                continue
            except TaskExecutionFailed as error:
                self._close(key, "failed", reason=str(error))
            except GlobusError as error:
                print(f"{self.name}: cannot ask: {error}", file=sys.stderr)
                return
            else:
                self._succeed(key, value)


class Driver:
    """All streams of one researcher, and the commands."""

    def __init__(self, streams: list[Stream], ledger: Ledger, seed: str) -> None:
        self._streams = streams
        self._ledger = ledger
        self._random = random.Random(seed)
        self._rate = 0.0
        self._go = threading.Event()
        threading.Thread(target=self._pace, daemon=True).start()
        threading.Thread(target=self._sweep, daemon=True).start()

    def _pace(self) -> None:
        lengths, weights = zip(*LENGTHS, strict=True)
        while True:
            self._go.wait()
            for stream in self._streams:
                (seconds,) = self._random.choices(lengths, weights)
                stream.submit(seconds, "raise" if self._random.random() < RAISING else "")
                time.sleep(1 / self._rate)

    def _sweep(self) -> None:
        while True:
            for stream in self._streams:
                stream.sweep()
            time.sleep(SWEEP)

    def start(self, rate: float) -> dict[str, Any]:
        """Submit that many tasks a second, to the engines in turn."""
        self._rate = rate
        self._go.set()
        return {}

    def pause(self) -> dict[str, Any]:
        self._go.clear()
        return {}

    def misbehave(self, engine: str, deed: str, patience: float) -> dict[str, Any]:
        """Have an engine run a task that does worse than raise, and wait for it."""
        streams = [stream for stream in self._streams if stream.engine == engine]
        for stream in streams:
            stream.submit(0, deed)
        waiting = {key: stream for stream in streams for key in list(stream.open)}
        return self._wait(waiting, patience)

    def settle(self, patience: float) -> dict[str, Any]:
        """Wait until what is open now has ended; answers with what has not."""
        waiting = {key: stream for stream in self._streams for key in list(stream.open)}
        return self._wait(waiting, patience)

    def knock(self, patience: float) -> dict[str, Any]:
        """Submit once more to each engine, and wait: the SDK then listens for results again."""
        for stream in self._streams:
            stream.submit(0.0, "")
        return self.settle(patience)

    def _wait(self, waiting: dict[str, Stream], patience: float) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while waiting and time.monotonic() < deadline:
            time.sleep(SWEEP)
            waiting = {key: stream for key, stream in waiting.items() if key in stream.open}
        return {"open": sorted(waiting)}

    def recover(self, since: float, patience: float) -> dict[str, Any]:
        """Wait until a task of each stream has succeeded which was submitted after a moment."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            moments = [stream.recovered(since) for stream in self._streams]
            if None not in moments:
                return {"at": max(moment for moment in moments if moment)}
            time.sleep(SWEEP)
        return {"late": [each.name for each in self._streams if each.recovered(since) is None]}


def count_deliveries(ledger: Ledger) -> None:
    """Have each result which comes by AMQP written down before the SDK sees it."""
    watcher: Any = sdk_executor._ResultWatcher
    receive = watcher._on_message

    def note(self: Any, channel: Any, deliver: Any, props: Any, body: bytes) -> None:
        result: Any = messagepack.unpack(body)
        ledger.write("delivered", task=str(result.task_id), again=bool(deliver.redelivered))
        receive(self, channel, deliver, props, body)

    watcher._on_message = note


def main(endpoint: str, path: str, name: str, seed: str, *engines: str) -> None:
    # The SDK tells of each lost connection at length.
    os.dup2(
        os.open(f"{path}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), sys.stderr.fileno()
    )
    ledger = Ledger(Path(path))
    count_deliveries(ledger)
    client = Client()
    streams = [Stream(f"{name}-{e}", endpoint, e, client, ledger) for e in engines]
    driver = Driver(streams, ledger, seed)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(driver, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
