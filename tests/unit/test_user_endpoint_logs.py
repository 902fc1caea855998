# SPDX-License-Identifier: Apache-2.0
"""``endpoint.log`` is complete, and the journal is not flooded."""

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from globus_compute_endpoint.user_endpoint.log_file import LogFile
from globus_compute_endpoint.user_endpoint.logs import log_to

log = logging.getLogger("globus_compute_endpoint.test")


class Journal(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def wait_until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, condition)


def read_until(descriptor: int, text: str) -> str:
    gathered = b""

    def found() -> bool:
        nonlocal gathered
        with contextlib.suppress(BlockingIOError):
            gathered += os.read(descriptor, 1 << 20)
        return text.encode() in gathered

    wait_for(found)
    return gathered.decode()


@pytest.fixture
def journal() -> Iterator[Journal]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    made = Journal()
    root.handlers = [made]
    yield made
    for handler in root.handlers:
        handler.close()
    root.handlers = before
    root.setLevel(level)


def test_lines_reach_the_file_from_wherever_they_are_logged(journal: Journal, tmp_path: Path):
    path = tmp_path / "endpoint.log"
    log_to(path, "an-endpoint", debug=False)

    async def main() -> None:
        log.info("first")
        log.info("second")
        await wait_until(lambda: "second" in path.read_text())
        await asyncio.to_thread(log.info, "from a thread")
        await wait_until(lambda: "from a thread" in path.read_text())

    asyncio.run(main())
    log.info("after the loop")
    flush()
    text = path.read_text()
    assert text.startswith("========== Endpoint begins: an-endpoint\n")
    assert text.index("first") < text.index("second") < text.index("after the loop")


def test_nobody_waits_for_a_file_system_which_is_away(journal: Journal, tmp_path: Path):
    """A pipe that nobody reads is as deaf as a file server which is down."""
    path = tmp_path / "endpoint.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    handler = LogFile(path, "begins\n", limit=100_000)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    before = time.monotonic()
    for n in range(2000):
        log.info("%04d %s", n, "x" * 100)
    assert time.monotonic() - before < 2
    told = [record.getMessage() for record in journal.records if record.levelno > logging.INFO]
    assert len(told) == 1
    assert "does not keep up" in told[0]
    text = read_until(reader, "are lost")
    written = text.count("x" * 100)
    (lost,) = map(int, re.findall(r"(\d+) lines could not be written", text))
    assert lost > 0
    assert written + lost == 2000
    assert [int(n) for n in re.findall(r"^(\d{4}) x", text, re.MULTILINE)] == list(range(written))
    assert "does not keep up" not in text  # of itself it says afterwards what it lacks
    handler.close()
    os.close(reader)


def test_a_full_disk_costs_lines_which_are_counted(journal: Journal, tmp_path: Path):
    path = tmp_path / "endpoint.log"
    handler = LogFile(path, "begins\n")
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    disposition = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # EFBIG where a full disk says ENOSPC
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        for n in range(20):
            log.info("%04d %s", n, "x" * 95)
            flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, disposition)
    log.info("room again")
    flush()
    wait_for(lambda: "are lost" in path.read_text())
    text = path.read_text()
    whole = len(re.findall(r"^\d{4} x{95}$", text, re.MULTILINE))
    assert f"{20 - whole} lines could not be written" in text
    assert re.search("^room again$", text, re.MULTILINE)
    told = [record.getMessage() for record in journal.records if record.levelno > logging.INFO]
    assert "File too large" in told[0]
    assert len(told) == 2  # when it began, and when it was over
    handler.close()


def test_a_long_file_is_put_aside_and_replaces_an_earlier_one(journal: Journal, tmp_path: Path):
    path, earlier = tmp_path / "endpoint.log", tmp_path / "endpoint.log.1"
    handler = LogFile(path, "begins\n", size_limit=1000)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    for n in range(25):
        log.info("%04d %s", n, "x" * 95)
        flush()
    handler.close()
    numbers = [
        int(n) for n in re.findall(r"^(\d{4}) x", earlier.read_text() + path.read_text(), re.M)
    ]
    assert numbers == list(range(10, 25))
    assert path.read_text().startswith(f"(earlier lines are in {earlier})\n")
    assert {each.name for each in tmp_path.iterdir()} == {path.name, earlier.name}
    handler = LogFile(path, "begins\n", size_limit=100)  # what an earlier process has left counts
    logging.getLogger().addHandler(handler)
    log.info("anew")
    handler.close()
    assert "0024" in earlier.read_text()
    assert path.read_text().endswith("\nanew\n")


def test_each_record_names_its_endpoint(journal: Journal, tmp_path: Path):
    log_to(tmp_path / "endpoint.log", "an-endpoint", debug=False)
    log.info("x", extra={"GC_TASK_ID": "a-task"})
    assert journal.records[0].__dict__["GC_ENDPOINT_ID"] == "an-endpoint"


def test_too_many_tasks_leave_room_for_errors(journal: Journal, tmp_path: Path):
    path = tmp_path / "endpoint.log"
    log_to(path, "an-endpoint", debug=False)
    for n in range(7000):
        log.info("Task %d done", n, extra={"GC_TASK_ID": str(n)})
    log.warning("a warning", extra={"GC_TASK_ID": "x"})
    log.info("not of a task")
    told = [record.getMessage() for record in journal.records]
    assert len(told) == 6002
    assert str(path) in told[-3]
    assert told[-2:] == ["a warning", "not of a task"]
    flush()
    assert path.read_text().count(" done") == 7000
