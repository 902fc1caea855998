# SPDX-License-Identifier: Apache-2.0
"""What befalls a task journal's disk: it is full, fails, is read-only, in memory, loses bytes."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint.harness import Harness
from endpoint.test_homes import double, fill, template, told, value
from support.refusals import refused_writes

pytestmark = pytest.mark.timeout(120)

_VOLATILE = "journal: {allow_volatile: true}\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk, but larger than a write-ahead log becomes; in memory, which is at hand."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def nap(n: int) -> int:
    import time

    time.sleep(1)
    return n


def trouble(harness: Harness) -> Any:
    return harness.heartbeats[-1].global_state.get("journal_trouble")


def killed(harness: Harness) -> None:
    """kill -9, and nobody who starts it again but us."""
    assert harness.process is not None
    harness.process.send_signal(signal.SIGKILL)
    harness.process.wait(10)


def test_a_full_disk_takes_nothing_and_loses_nothing(harness: Harness, disk: Path):
    harness.start(template("processes") + _VOLATILE, state_directory=str(disk))
    assert value(harness, harness.submit(double, 1)) == 2
    running = harness.submit(nap, 7)
    harness.wait_for(lambda: f"Task {running} given" in harness.log)
    filler = fill(disk)
    waiting = [harness.submit(double, n) for n in range(300)]
    assert value(harness, running) == 7
    harness.wait_for(lambda: trouble(harness) is not None)
    before = len(harness.results)
    assert harness.log.count("The task journal cannot be used") == 1
    filler.unlink()
    assert [value(harness, each) for each in waiting] == [2 * n for n in range(300)]
    assert before < 300
    harness.wait_for(lambda: trouble(harness) is None)
    assert len(harness.raw_results) == len(harness.results)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("EDQUOT", "Disk quota exceeded"),
        pytest.param("EIO", "Input/output error", marks=pytest.mark.long),
        pytest.param("EROFS", "Read-only file system", marks=pytest.mark.long),
    ],
)
def test_a_disk_which_fails_takes_nothing_and_loses_nothing(
    harness: Harness, tmp_path: Path, error: str, reason: str
):
    state = tmp_path / "state"
    state.mkdir()
    harness.start(template("processes"), state_directory=str(state))
    assert value(harness, harness.submit(double, 1)) == 2
    running = harness.submit(nap, 7)
    harness.wait_for(lambda: f"Task {running} given" in harness.log)
    assert harness.process is not None
    with refused_writes(harness.process.pid, error):
        waiting = [harness.submit(double, n) for n in range(20)]
        harness.wait_for(lambda: reason in str(trouble(harness)))
        assert value(harness, running) == 7
        harness.wait_for(lambda: harness.queued() == len(waiting))
        assert len(harness.results) == 2
        assert harness.log.count("The task journal cannot be used") == 1
        assert reason in harness.log
    assert [value(harness, each) for each in waiting] == [2 * n for n in range(20)]
    harness.wait_for(lambda: trouble(harness) is None)
    assert len(harness.raw_results) == len(harness.results)


def test_a_read_only_disk_is_named(harness: Harness, disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    harness.start(template("threads") + _VOLATILE, state_directory=str(disk))
    assert harness.exit_status() == 73
    error = told(harness)
    assert "Read-only file system" in error
    assert str(disk) in error


def test_memory_is_refused(harness: Harness, disk: Path):
    harness.start(template("threads"), state_directory=str(disk))
    assert harness.exit_status() == 78
    assert "which is in memory (tmpfs at" in told(harness)


def test_a_damaged_journal_is_replaced_at_the_next_start(harness: Harness, tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir()
    harness.start(template("processes"), state_directory=str(state))
    busy = [harness.submit(nap, n) for n in range(2)]
    waiting = [harness.submit(double, n) for n in range(200)]
    harness.wait_for(lambda: all(f"Task {each} received" in harness.log for each in waiting))
    killed(harness)
    journal = state / "journal.db"
    subprocess.run(
        [
            "python3",
            "-c",
            "import sqlite3, sys;"
            "sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')",
            journal,
        ],
        check=True,
    )
    size = journal.stat().st_size
    with journal.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * 16384)
    harness.start(template("processes"), state_directory=str(state))
    harness.wait_for(lambda: "carried over" in harness.log)
    answered = [each for each in (*busy, *waiting) if _ends(harness, each)]
    # What had not been read from the damaged pages is told of, or was told as lost.
    lost = len(busy) + len(waiting) - len(answered)
    unreadable = int(harness.log.partition(" records could not be read")[0].rpartition(" ")[2])
    assert lost <= unreadable
    assert len(answered) > 100
    assert list(state.glob("journal.db.damaged-*"))


def _ends(harness: Harness, task_id: str) -> bool:
    try:
        harness.result(task_id, 10)
    except AssertionError:
        return False
    return True


def test_damage_which_is_found_late_ends_this_life_and_not_the_tasks(
    harness: Harness, tmp_path: Path
):
    state = tmp_path / "state"
    state.mkdir()
    harness.start(template("processes"), state_directory=str(state))
    assert value(harness, harness.submit(double, 1)) == 2
    journal = state / "journal.db"
    with journal.open("r+b") as file:  # under its feet; and its log's index with it
        file.write(b"\xa5" * journal.stat().st_size)
    for side in ("-wal", "-shm"):
        path = Path(f"{journal}{side}")
        with path.open("r+b") as file:
            file.write(b"\xa5" * path.stat().st_size)
    later = [harness.submit(double, n) for n in range(20)]
    assert harness.exit_status() == 75
    assert not any("error" in beat.global_state for beat in harness.heartbeats)
    harness.start(template("processes"), state_directory=str(state))
    assert [value(harness, each) for each in later] == [2 * n for n in range(20)]
