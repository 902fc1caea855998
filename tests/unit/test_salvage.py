# SPDX-License-Identifier: Apache-2.0
"""Of a damaged journal all that can be read goes on, and each known task ends."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from globus_compute_common.messagepack import unpack
from globus_compute_common.messagepack.message_types import Result

from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.host.file_systems import FileSystem
from globus_compute_endpoint.host.paths import JOURNAL_FILE
from globus_compute_endpoint.user_endpoint import journal_files
from globus_compute_endpoint.user_endpoint.journal_batch import Batch, State
from globus_compute_endpoint.user_endpoint.journal_files import is_damage, mark, open_journal
from globus_compute_endpoint.user_endpoint.recovery import Interruption, recover
from globus_compute_endpoint.user_endpoint.salvage import open_sound, salvage, set_aside
from globus_compute_endpoint.worker import task as worker
from support.tasks import packed_task

_ENDPOINT = str(uuid4())
_TASKS = 200


def function(filler: str) -> str:
    return filler


def make(directory: Path) -> dict[str, State]:
    """Write a journal with tasks in all states."""
    states: dict[str, State] = {}
    journal, batch = open_journal(directory), Batch()
    for seq in range(1, _TASKS + 1):
        task_id, body = packed_task(function, "x" * (seq * 37 % 5000))
        state = State(seq % 5)
        batch.receive(seq, TaskRequest(task_id, body, seq), State.RECEIVED)
        if state >= State.SUBMITTED:
            batch.submit(seq, task_id)
        if state >= State.STARTED:
            batch.start(seq, task_id, 1)
        if state >= State.FINISHED:
            context = {"endpoint_id": _ENDPOINT}
            batch.finish(seq, task_id, worker.failure(task_id, "X", "y" * 3000, context))
        if state >= State.CONFIRMED:
            batch.confirm(seq, task_id)
        states[task_id] = state
    journal.write(batch)
    journal.note_job("4711")
    journal.close()
    return states


def overwrite(path: Path, start: float, length: float) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * start))
        file.write(b"\xa5" * int(size * length))


def wipe_page(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * (number - 1))
        file.write(b"\xa5" * 4096)


def root_page(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        return int(database.execute(query, (table,)).fetchone()[0])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "in the middle": lambda path: overwrite(path, 0.5, 0.1),
    "early": lambda path: overwrite(path, 0.05, 0.02),
    "at the end": lambda path: overwrite(path, 0.9, 0.1),
    "cut off": cut,
    "tasks": lambda path: wipe_page(path, root_page(path, "tasks")),
    "contents": lambda path: wipe_page(path, root_page(path, "contents")),
    "everything": lambda path: overwrite(path, 0, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_be_read_goes_on(tmp_path: Path, damage: str):
    states = make(tmp_path)
    path = tmp_path / JOURNAL_FILE
    DAMAGES[damage](path)
    aside = set_aside(path)
    assert not path.exists()
    assert aside.exists()
    journal = open_journal(tmp_path)
    found = salvage(aside, journal._database, _ENDPOINT)
    tasks = {each.task_id: each for each in journal.tasks(State.RECEIVED, State.CONFIRMED)}
    assert tasks.keys() <= states.keys()  # nothing is made up
    still_open = {each.task_id: each for each in journal.open_tasks()}
    assert found.whole + found.failed == len(still_open)
    for task in still_open.values():
        if task.state is State.FINISHED:
            ((task_id, content),) = journal.results([task.seq])
            result = unpack(content)
            assert isinstance(result, Result)
            assert str(result.task_id) == task_id == task.task_id
        else:
            (request,) = journal.requests([task.seq])
            assert request.task_id == task.task_id
            assert request.task_id.encode() in request.body
            # Of one whose record is lost it is not known that it has not begun.
            assert task.state in (states[task.task_id], State.STARTED)
    missing = len(states.keys() - tasks.keys())
    if damage == "everything":
        assert not tasks
    elif damage == "contents":
        assert set(tasks) == set(states)
        assert found.failed == sum(state < State.CONFIRMED for state in states.values())
    else:
        assert len(tasks) > _TASKS / 4
        assert missing <= found.unreadable
    assert journal.jobs() == (("4711",) if damage != "everything" else ())
    journal.close()


def test_a_few_damaged_journals_are_kept(tmp_path: Path):
    path = tmp_path / JOURNAL_FILE
    for n in range(6):
        path.write_text(str(n))
        Path(f"{path}-wal").write_text(str(n))
        set_aside(path)
    assert sorted(each.read_text() for each in tmp_path.iterdir()) == sorted("334455")


def test_damage_is_told_from_a_disk_which_fails(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"no database at all" * 1000)
    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.Error) as damaged:
        database.execute("SELECT * FROM sqlite_schema")
    assert is_damage(damaged.value)
    with pytest.raises(sqlite3.Error) as away:
        sqlite3.connect(tmp_path / "no" / "such")
    assert not is_damage(away.value)


def test_a_start_replaces_a_damaged_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make(tmp_path)
    mark(tmp_path)
    path = tmp_path / JOURNAL_FILE
    overwrite(path, 0.5, 0.1)
    damaged = path.read_bytes()
    journal = open_sound(tmp_path, _ENDPOINT)
    assert len(journal.open_tasks()) > _TASKS / 4
    journal.check()
    journal.close()
    (aside,) = (each for each in tmp_path.glob("*.damaged-*Z"))
    assert aside.read_bytes()[4096:] == damaged[4096:]  # SQLite counts who opens it in its head
    told = [record.getMessage() for record in caplog.records]
    assert any("is damaged" in each for each in told)
    assert any("carried over" in each and str(aside) in each for each in told)
    open_sound(tmp_path, _ENDPOINT).close()
    assert len(list(tmp_path.glob("*.damaged-*Z"))) == 1


class Death(BaseException):
    """Of the process, here and now."""


@pytest.mark.parametrize("renamed", range(5))
def test_a_replacement_which_is_cut_short_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
):
    """Tasks are in the write-ahead log alone, which stays as long as somebody looks into it."""
    path = tmp_path / JOURNAL_FILE
    open_journal(tmp_path).close()
    mark(tmp_path)
    with closing(sqlite3.connect(path)) as reader:
        journal, batch, tasks = open_journal(tmp_path), Batch(), []
        for seq in range(1, 4):
            task_id, body = packed_task(function, "x")
            batch.receive(seq, TaskRequest(task_id, body, 1), State.RECEIVED)
            tasks.append(task_id)
        journal.write(batch)
        journal._database.execute("UPDATE tasks SET request = '{}' WHERE seq = 1")
        journal.close()
        reader.execute("SELECT count(*) FROM tasks").fetchall()
        rename, left = Path.rename, iter(range(renamed))

        def rename_or_die(self: Path, target: Path) -> Path:
            if self.exists() and next(left, None) is None:
                raise Death
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", rename_or_die)
        if renamed < 4:
            with pytest.raises(Death):
                open_sound(tmp_path, _ENDPOINT)
            monkeypatch.undo()
        journal = open_sound(tmp_path, _ENDPOINT)
    assert sorted(each.task_id for each in journal.open_tasks()) == sorted(tasks)
    journal.check()
    journal.close()
    assert not (tmp_path / f"{JOURNAL_FILE}.salvaged").exists()
    names = sorted(each.name for each in tmp_path.iterdir() if ".damaged-" in each.name)
    assert len({name.partition("Z")[0] for name in names}) == 1
    assert [name.partition("Z")[2] for name in names] == ["", "-shm", "-wal"]


def test_without_a_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path)
    served = FileSystem("nfs4", tmp_path)
    monkeypatch.setattr(journal_files, "file_system_of", lambda _: served)
    journal = open_journal(tmp_path)
    journal.note_job("4712")
    assert not Path(f"{tmp_path / JOURNAL_FILE}-wal").exists()
    assert len(journal.open_tasks()) == _TASKS * 4 // 5
    journal.close()


@pytest.mark.parametrize(
    ("spoiled", "ended"),
    [
        ("DELETE FROM contents WHERE seq = 1", "JournalDamaged"),
        ("UPDATE tasks SET history = '[', state = 0 WHERE seq = 1", "TaskInterrupted"),
        ("UPDATE tasks SET request = '{}', state = 0 WHERE seq = 1", "TaskInterrupted"),
    ],
)
def test_what_sqlite_takes_for_sound_is_mended_too(tmp_path: Path, spoiled: str, ended: str):
    journal = open_journal(tmp_path)
    batch = Batch()
    batch.receive(1, TaskRequest(*packed_task(function, "x"), 1), State.RECEIVED)
    journal.write(batch)
    journal._database.execute(spoiled)
    with pytest.raises(sqlite3.DatabaseError):
        journal.check()
    journal.close()
    mark(tmp_path)
    journal = open_sound(tmp_path, _ENDPOINT)
    recovered = recover(Interruption(_ENDPOINT, None, frozenset(), 0), journal)
    ((_, content),) = journal.results([each.seq for each in recovered.open_tasks])
    result = unpack(content)
    assert isinstance(result, Result)
    assert result.error_details is not None
    assert result.error_details.code == ended
    journal.close()
