# SPDX-License-Identifier: Apache-2.0
"""Homes on a file system of their own, which freezes, and homes which are full."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from endpoint.harness import Harness
from support.tasks import value_of
from support.waiting import until

pytestmark = pytest.mark.timeout(120)

_ENGINES = {
    "threads": "{type: ThreadPoolEngine, max_workers: 2}",
    "processes": "{type: ProcessPoolEngine, max_workers: 2}",
    "htex": "{type: GlobusComputeEngine, max_workers_per_node: 2}",
}
_EACH_ENGINE = [
    "threads",
    *(pytest.param(each, marks=pytest.mark.long) for each in ("processes", "htex")),
]
_FROZEN = 6.0  # seconds
_SMALL = 1 << 20


class FrozenHome:
    """A home on FUSE, as the user's own: its server can be stopped, and root has no access."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "home"
        real = directory / "real"
        for each in (self.path, real):
            each.mkdir()
        self._server = subprocess.Popen(["bindfs", "-f", "--no-allow-other", real, self.path])
        until(lambda: os.path.ismount(self.path))

    def freeze(self) -> None:
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        self.thaw()
        subprocess.run(["fusermount3", "-uz", self.path], check=True, timeout=30)
        self._server.wait(30)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[FrozenHome]:
    made = FrozenHome(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def full_home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "home"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SMALL}", "none", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def state(tmp_path: Path) -> str:
    """The directory on local disk which a system's manager provides."""
    path = tmp_path / "state"
    path.mkdir()
    return str(path)


def template(engine: str) -> str:
    return f"engine: {_ENGINES[engine]}\nheartbeat_period: 0.5\n"


def double(n: int) -> int:
    return 2 * n


def value(harness: Harness, task_id: str, seconds: float = 60) -> Any:
    harness.result(task_id, seconds)
    return value_of(next(raw for raw in harness.raw_results if task_id.encode() in raw))


def fill(directory: Path) -> Path:
    """Leave no block free."""
    path = directory / str(uuid4())
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def told(harness: Harness) -> str:
    harness.wait_for(lambda: any("error" in beat.global_state for beat in harness.heartbeats))
    return str(
        next(b.global_state["error"] for b in harness.heartbeats if "error" in b.global_state)
    )


@pytest.mark.parametrize("engine", _EACH_ENGINE)
def test_nothing_is_lost_while_the_home_is_frozen(home: FrozenHome, state: str, engine: str):
    harness = Harness(home.path)
    try:
        harness.start(template(engine), state_directory=state)
        assert value(harness, harness.submit(double, 1)) == 2
        home.freeze()
        tasks = {harness.submit(double, n): 2 * n for n in range(20)}
        beats, before = len(harness.heartbeats), time.monotonic()
        harness.wait_for(lambda: time.monotonic() - before > _FROZEN, 2 * _FROZEN)
        assert len(harness.heartbeats) - beats > _FROZEN
        home.thaw()
        assert {each: value(harness, each) for each in tasks} == tasks
        assert len(harness.raw_results) == 21
        harness.tell({"type": "stop"})
        assert harness.exit_status() == 0
        for each in tasks:
            assert f"Task {each} is done" in harness.log
        assert "lost" not in harness.log
    finally:
        home.thaw()
        harness.close()


@pytest.mark.parametrize("engine", _EACH_ENGINE[1:])
def test_a_stop_does_not_wait_for_a_home_which_is_away(home: FrozenHome, state: str, engine: str):
    harness = Harness(home.path)
    try:
        harness.start(template(engine), state_directory=state)
        assert value(harness, harness.submit(double, 1)) == 2
        # What the server has taken in hand when it stops, no process can be killed out of.
        harness.wait_for(lambda: "is done: result confirmed" in harness.log)
        home.freeze()
        harness.tell({"type": "stop"})
        assert harness.exit_status(40) == 0
        assert harness.heartbeats[-1].global_state["active"] is False
    finally:
        home.thaw()
        harness.close()


@pytest.mark.long
def test_a_start_waits_for_a_home_which_is_away(home: FrozenHome, state: str):
    harness = Harness(home.path)
    try:
        home.freeze()
        task = harness.submit(double, 21)
        harness.start(template("threads"), state_directory=state)
        before = time.monotonic()
        harness.wait_for(lambda: time.monotonic() - before > _FROZEN, 2 * _FROZEN)
        home.thaw()
        assert value(harness, task) == 42
    finally:
        home.thaw()
        harness.close()


@pytest.mark.parametrize("engine", _EACH_ENGINE[:2])
def test_tasks_run_in_a_full_home(full_home: Path, state: str, engine: str):
    harness = Harness(full_home)
    try:
        harness.start(template(engine), state_directory=state)
        assert value(harness, harness.submit(double, 1)) == 2
        filler = fill(full_home)
        tasks = {harness.submit(double, n): 2 * n for n in range(50)}
        assert {each: value(harness, each) for each in tasks} == tasks
        filler.unlink()
        assert value(harness, harness.submit(double, 3)) == 6
        harness.wait_for(lambda: "lines could not be written" in harness.log)
    finally:
        harness.close()


@pytest.mark.parametrize("engine", _EACH_ENGINE)
def test_a_start_in_a_full_home_says_so(full_home: Path, state: str, engine: str):
    harness = Harness(full_home)
    try:
        fill(full_home)
        harness.start(template(engine), state_directory=state)
        assert harness.exit_status() == 73
        error = told(harness)
        assert "No space left on device" in error
        assert str(full_home) in error
        assert "\n" not in error
    finally:
        harness.close()
