# SPDX-License-Identifier: Apache-2.0
"""What becomes of tasks whose user endpoint is killed, cut off or flooded."""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from endpoint.harness import AMQP_URL, Harness
from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.host.paths import JOURNAL_FILE, holds_work, state_directory
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_files import open_journal
from support.tasks import value_of

pytestmark = pytest.mark.timeout(90)

TEMPLATE = "engine: {type: ProcessPoolEngine, max_workers: %d}\nheartbeat_period: 0.2\n"


def note(path: str, seconds: float) -> str:
    import time

    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)
    return path


class Cut:
    """A way to the broker which can be made to lose what the endpoint sends, and be cut."""

    def __init__(self) -> None:
        self.losing = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and let new ones through."""
        for each in itertools.chain.from_iterable(self._pairs):
            with contextlib.suppress(OSError):  # ended already
                each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()
        self.losing = False

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                endpoint, _ = self._listener.accept()
            except OSError:
                return
            broker = socket.create_connection(("127.0.0.1", 5672))
            self._pairs.append((endpoint, broker))
            for source, sink, lossy in ((endpoint, broker, True), (broker, endpoint, False)):
                threading.Thread(target=self._pump, args=(source, sink, lossy), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, lossy: bool) -> None:
        try:
            while data := source.recv(65536):
                if not (lossy and self.losing):
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@pytest.fixture
def way() -> Iterator[Cut]:
    made = Cut()
    yield made
    made.close()


def tasks_of(harness: Harness, *options: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "globus_compute_endpoint", "tasks", harness.endpoint_id]
    environment = {"HOME": str(harness.home), "PATH": os.environ["PATH"], "PYTHONPATH": "src"}
    done = subprocess.run(
        [*command, "--json", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def count(harness: Harness, name: str) -> int:
    path = harness.home / name
    return len(path.read_text()) if path.exists() else 0


def test_of_twenty_tasks_all_end_and_each_once(harness: Harness):
    """Five run, three are finished and not confirmed, twelve wait, when it is killed."""

    def submit(kind: str, seconds: float, number: int) -> list[str]:
        paths = [str(harness.home / f"{kind}{each}") for each in range(number)]
        return [harness.submit(note, path, seconds) for path in paths]

    harness.start(TEMPLATE % 5)
    route = {"exchange": "results", "routing_key": f"{harness.endpoint_id}.results"}
    queue = f"{harness.endpoint_id}.test.results"
    harness.channel.queue_unbind(queue, **route)  # no result is confirmed any more
    finished = submit("finished", 0, 3)
    harness.wait_for(lambda: harness.log.count("finished; its result") == 3)
    running = submit("running", 60, 5)
    harness.wait_for(lambda: all(count(harness, f"running{each}") for each in range(5)))
    waiting = submit("waiting", 0, 12)
    harness.wait_for(lambda: harness.log.count(" received") == 20)
    harness.wait_for(lambda: harness.queued() == 0)
    states = Counter(task["state"] for task in tasks_of(harness))
    assert states == {"finished": 3, "started": 5, "submitted": 12}
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()
    assert holds_work(harness.directory)
    harness.channel.queue_bind(queue, **route)
    harness.start(TEMPLATE % 5, interruption="it was killed by SIGKILL")
    results = {each: harness.result(each) for each in (*finished, *running, *waiting)}
    for task_id in (*finished, *waiting):
        assert results[task_id].error_details is None
    for task_id in running:
        details = results[task_id].error_details
        assert details is not None
        assert details.code == "TaskInterrupted"
        assert "it was killed by SIGKILL" in results[task_id].data
    harness.tell({"type": "drain"})
    assert harness.exit_status() == 0
    assert len(harness.raw_results) == 20
    for kind, number in (("finished", 3), ("running", 5), ("waiting", 12)):
        assert [count(harness, f"{kind}{each}") for each in range(number)] == [1] * number
    assert not holds_work(harness.directory)


def test_where_a_start_could_not_be_marked_nothing_runs_twice_after_a_kill(harness: Harness):
    harness.start(TEMPLATE % 1)
    marks = harness.directory / "start_marks"
    harness.wait_for(lambda: marks.exists() and "Taking tasks" in harness.log)
    shutil.rmtree(marks)
    harness.result(harness.submit(note, str(harness.home / "unmarked"), 0))
    harness.wait_for(lambda: "could not mark its start" in harness.log)
    harness.submit(note, str(harness.home / "running"), 60)
    harness.wait_for(lambda: count(harness, "running") == 1)
    waiting = harness.submit(note, str(harness.home / "waiting"), 0)
    harness.wait_for(lambda: f"Task {waiting} received" in harness.log)
    harness.wait_for(lambda: harness.queued() == 0)
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()
    harness.start(TEMPLATE % 1)
    details = harness.result(waiting).error_details
    assert details is not None
    assert details.code == "TaskInterrupted"
    assert harness.result(harness.submit(note, str(harness.home / "later"), 0))
    assert (count(harness, "running"), count(harness, "waiting")) == (1, 0)


def test_an_acknowledgement_which_was_lost_runs_nothing_twice(harness: Harness, way: Cut):
    url = AMQP_URL.replace(":5672", f":{way.port}")
    harness.start(TEMPLATE % 2, amqp_creds=harness.credentials(url))
    first = harness.submit(note, str(harness.home / "first"), 0)
    harness.result(first)
    way.losing = True
    task_id = harness.submit(note, str(harness.home / "second"), 0)
    harness.wait_for(lambda: f"Task {task_id} finished" in harness.log)
    assert task_id not in harness.results
    way.cut()
    assert harness.result(task_id).error_details is None
    harness.wait_for(lambda: harness.queued() == 0)
    harness.tell({"type": "drain"})
    assert harness.exit_status() == 0
    assert (count(harness, "first"), count(harness, "second")) == (1, 1)
    (raw,) = {raw for raw in harness.raw_results if task_id.encode() in raw}
    assert value_of(raw) == str(harness.home / "second")


def test_a_flood_is_bounded_and_all_is_done(harness: Harness):
    paths = [str(harness.home / "flood")] * 400
    tasks = [harness.submit(note, path, 0) for path in paths]
    harness.start(TEMPLATE % 2 + "journal: {max_tasks: 50}\n")
    harness.wait_for(lambda: len(harness.results) == 400, 60)
    assert set(harness.results) == set(tasks)
    outstanding = [each.global_state["outstanding_tasks"] for each in harness.heartbeats]
    assert max(outstanding) <= 50
    assert "Taking no more tasks: 50 are in the journal" in harness.log
    assert count(harness, "flood") == 400
    assert (harness.directory / JOURNAL_FILE).exists()
    harness.tell({"type": "drain"})
    assert harness.exit_status() == 0
    assert not (harness.directory / JOURNAL_FILE).exists()


def test_root_has_a_journal_read_by_its_owner(tmp_path: Path):
    """What a user may have put in its place, a link to a file of root's, is not even opened."""
    endpoint_id, nobody = str(uuid4()), 65534
    directory = state_directory(nobody, UUID(endpoint_id))
    directory.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)
    journal, batch = open_journal(directory), Batch()
    batch.receive(1, TaskRequest(str(uuid4()), b"body", 1), State.RECEIVED)
    journal.write(batch)
    journal.close()
    for path in (directory, directory / JOURNAL_FILE):
        os.chown(path, nobody, nobody)
    command = [sys.executable, "-m", "globus_compute_endpoint", "tasks", endpoint_id]
    source = str(Path(__file__).parents[2] / "src")
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": source}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )

    try:
        assert "received" in run().stdout
        (directory / JOURNAL_FILE).unlink()
        secret = tmp_path / "secret"
        open_journal(tmp_path).close()
        (tmp_path / JOURNAL_FILE).rename(secret)
        (directory / JOURNAL_FILE).symlink_to(secret)
        refused = run()
        assert refused.returncode == 65
        assert "cannot be read" in refused.stderr
    finally:
        shutil.rmtree(directory)
