# SPDX-License-Identifier: Apache-2.0
"""The journal's file: whole after any death, bounded, its owner's."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.host.paths import JOURNAL_FILE, holds_work
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint import journal as module
from globus_compute_endpoint.user_endpoint.inspection import rows, tasks_in
from globus_compute_endpoint.user_endpoint.journal import Journal
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_files import (
    close_open_tasks,
    mark,
    open_journal,
    remove_journal,
)

_WRITER = """
import sys
from pathlib import Path
from uuid import uuid4
from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_files import open_journal
journal, seq = open_journal(Path(sys.argv[1])), 0
while True:
    batch = Batch()
    for _ in range(10):
        seq += 1
        batch.receive(seq, TaskRequest(str(uuid4()), bytes(3000), 1), State.RECEIVED)
    journal.write(batch)
    print(seq, flush=True)
"""


def fill(journal: Journal, count: int, state: State = State.RECEIVED) -> list[str]:
    batch, ids = Batch(), [str(uuid4()) for _ in range(count)]
    first = journal.last_seq() + 1
    for seq, task_id in enumerate(ids, first):
        batch.receive(seq, TaskRequest(task_id, b"body of " + task_id.encode(), 1), state)
    journal.write(batch)
    return ids


def confirm_all(journal: Journal) -> None:
    batch = Batch()
    for task in journal.open_tasks():
        batch.confirm(task.seq, task.task_id)
    journal.write(batch)


def test_kill_9_in_the_middle_of_a_transaction_leaves_whole_ones(tmp_path: Path):
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert writer.stdout is not None
    written = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    written += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    journal = open_journal(tmp_path)
    kept = [task.seq for task in journal.open_tasks()]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) % 10 == 0
    assert written[-1] <= len(kept) <= written[-1] + 10
    assert all(len(task.body) == 3000 for task in journal.requests(kept))
    journal.close()
    with sqlite3.connect(tmp_path / JOURNAL_FILE) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def test_a_task_comes_back_as_it_was(tmp_path: Path):
    task = TaskRequest(str(uuid4()), b"\0body", 17, {"num_nodes": 2}, ("a.B",), ("once",))
    journal, batch = open_journal(tmp_path), Batch()
    batch.receive(1, task, State.SUBMITTED)
    journal.write(batch)
    journal.close()
    journal = open_journal(tmp_path)
    assert journal.requests([1]) == [task]
    journal.close()


def test_more_tasks_than_a_statement_takes(tmp_path: Path):
    journal = open_journal(tmp_path)
    ids = fill(journal, 2345)
    assert [task.task_id for task in journal.open_tasks()] == ids
    confirm_all(journal)
    assert (journal.open_tasks(), journal.done()) == ([], ids)
    with pytest.raises(sqlite3.DatabaseError, match="of 2345 tasks the content is missing"):
        journal.results(range(1, 2346))
    journal.close()


def test_what_is_done_is_remembered_so_many_and_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "TOMBSTONES", 5)
    journal = open_journal(tmp_path)
    ids = fill(journal, 8)
    confirm_all(journal)
    (waiting,) = fill(journal, 1)
    now = time.time_ns()
    assert journal.forget_old(now) == ids[:3]
    assert journal.done() == ids[3:]
    assert journal.forget_old(now + (module.TOMBSTONE_AGE + 60) * 10**9) == ids[3:]
    assert [task.task_id for task in journal.open_tasks()] == [waiting]
    journal.close()


def test_space_is_given_back(tmp_path: Path):
    journal, batch = open_journal(tmp_path), Batch()
    batch.receive(1, TaskRequest(str(uuid4()), bytes(8 * 2**20), 1), State.RECEIVED)
    journal.write(batch)
    confirm_all(journal)
    for _ in range(2):
        journal.forget_old(time.time_ns())
    journal.close()
    assert (tmp_path / JOURNAL_FILE).stat().st_size < 5 * 2**20


def test_only_its_owner_reads_it(tmp_path: Path):
    journal = open_journal(tmp_path)
    fill(journal, 1)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    journal.close()


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path):
    open_journal(tmp_path).close()
    with sqlite3.connect(tmp_path / JOURNAL_FILE) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Problem, match="newer than"):
        open_journal(tmp_path)


def test_when_all_were_answered_none_is_left(tmp_path: Path):
    journal = open_journal(tmp_path)
    mark(tmp_path)
    ids = fill(journal, 3)
    journal.close()
    close_open_tasks(tmp_path)
    assert not holds_work(tmp_path)
    journal = open_journal(tmp_path)
    assert (journal.open_tasks(), journal.done()) == ([], ids)
    journal.close()
    remove_journal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_jobs_and_ends_are_remembered(tmp_path: Path):
    journal = open_journal(tmp_path)
    for job in ("17", "18", "19"):
        journal.note_job(job)
    journal.forget_job("18")
    journal.note_end("it was stopped")
    journal.close()
    journal = open_journal(tmp_path)
    assert (journal.jobs(), journal.last_end()) == (("17", "19"), "it was stopped")
    assert not journal.are_marks_doubted()
    journal.doubt_marks()
    journal.note_end("it was stopped twice")
    assert journal.last_end() == "it was stopped twice"
    assert journal.are_marks_doubted()
    journal.begin_life()
    assert journal.last_end() is None
    assert not journal.are_marks_doubted()
    journal.close()


def test_it_can_be_looked_at_while_it_is_in_use(tmp_path: Path):
    journal = open_journal(tmp_path)
    first, second = fill(journal, 2)
    batch = Batch()
    batch.start(1, first, 2)
    journal.write(batch)
    shown = tasks_in(tmp_path, "received", "finished", 10)
    assert [(task.task_id, task.state, task.attempts) for task in shown] == [
        (first, "started", 1),
        (second, "received", 0),
    ]
    assert [task.task_id for task in tasks_in(tmp_path, "started", "started", 10)] == [first]
    assert len(tasks_in(tmp_path, "received", "finished", 1)) == 1
    journal.close()
    assert tasks_in(tmp_path / "nowhere", "received", "finished", 10) == []


def test_what_a_journals_owner_says_of_times_is_not_taken_for_granted():
    row = {"task_id": str(uuid4()), "state": "started", "attempts": 1, "size": 2}
    times = {"received": "2026-01-01T00:00:00Z", "started": None, "finished": None}
    assert rows.validate_python([{**row, **times, "confirmed": None}])
    with pytest.raises(ValueError, match="the year 1"):
        rows.validate_python([{**row, **times, "confirmed": "0001-01-01T00:00:00Z"}])
