# SPDX-License-Identifier: Apache-2.0
"""``endpoint.log`` is complete, and the journal is not flooded."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from globus_compute_endpoint.user_endpoint.logs import log_to

log = logging.getLogger("globus_compute_endpoint.test")


class Journal(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


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


def test_lines_reach_the_file_after_the_turn_of_the_loop(journal: Journal, tmp_path: Path):
    path = tmp_path / "endpoint.log"
    log_to(path, "an-endpoint", debug=False)

    async def main() -> None:
        log.info("first")
        assert "first" not in path.read_text()  # written together with what follows
        log.info("second")
        await asyncio.sleep(0)
        assert "second" in path.read_text()
        await asyncio.to_thread(log.info, "from a thread")
        assert "from a thread" in path.read_text()

    asyncio.run(main())
    log.info("after the loop")
    text = path.read_text()
    assert text.startswith("========== Endpoint begins: an-endpoint\n")
    assert "after the loop" in text


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
    assert path.read_text().count(" done") == 7000
