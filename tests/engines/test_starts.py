# SPDX-License-Identifier: Apache-2.0
"""Which tasks have begun: as engines say, as workers mark, and in a pause."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import ShellFunction

from engines.conftest import Started
from engines.test_pools import PROCESSES, THREADS, both, nap
from globus_compute_endpoint.engines.marks import (
    MarksReader,
    Place,
    open_marks,
    read_marks,
    remove_marks,
)
from globus_compute_endpoint.worker import task as worker
from support.tasks import value_of
from support.waiting import until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


def take_over() -> bool:
    import os

    marks = []
    for each in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{each}"
        if os.path.exists(path) and "/marks/" in os.readlink(path):
            marks.append(each)
    for each in marks:
        os.close(int(each))
    return str(os.open("mine", os.O_RDWR | os.O_CREAT)) in marks


def length() -> int:
    import os

    return os.path.getsize("mine")


def wait_for(gate: str) -> str:
    import os
    import time

    while not os.path.exists(gate):
        time.sleep(0.02)
    return "open"


@both
async def test_tasks_which_wait_have_not_begun(
    started: Started, options: dict[str, Any], tmp_path: Path
):
    gate = tmp_path / "gate"
    async with started(options) as bench:
        futures = [bench.submit(wait_for, str(gate)) for _ in range(5)]
        await bench.have_begun(2)
        marks = read_marks(tmp_path / "marks")
        assert len(marks) == 2
        assert set(bench.begun) == marks
        assert bench.engine.busy == 2
        gate.touch()
        await asyncio.gather(*futures)
        assert len(read_marks(tmp_path / "marks")) == len(bench.begun) == 5


@both
async def test_a_pause_lets_finish_what_has_begun(
    started: Started, options: dict[str, Any], tmp_path: Path
):
    gate = tmp_path / "gate"
    async with started(options) as bench:
        futures = [bench.submit(wait_for, str(gate)) for _ in range(5)]
        await bench.have_begun(2)
        bench.engine.pause()
        gate.touch()
        await asyncio.wait_for(bench.engine.quiet(), 20)
        assert [each.done() for each in futures] == [True, True, False, False, False]
        assert bench.engine.busy == 0
        assert bench.engine.status().pending_tasks == 0


async def test_a_shell_function_which_waits_for_a_process_has_not_begun(
    started: Started, tmp_path: Path
):
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    async with started(THREADS) as bench:
        waits = ShellFunction(f"until [ -e {gate} ]; do sleep 0.05; done")
        futures = [bench.submit(waits) for _ in range(4)]
        await bench.have_begun(2)
        # A thread marks each, and takes the mark back when it sees that it needs a process.
        await asyncio.to_thread(until, lambda: read_marks(marks) == set(bench.begun))
        assert len(bench.begun) == 2
        bench.engine.pause()
        gate.touch()
        await asyncio.wait_for(bench.engine.quiet(), 20)
        assert [each.done() for each in futures].count(True) == 2
        assert len(read_marks(marks)) == 2


async def test_marks_never_go_into_a_tasks_own_file(started: Started, tmp_path: Path):
    async with started(PROCESSES | {"max_workers": 1}) as bench:
        assert await bench.value(take_over)
        assert await bench.value(length) == 0
        assert len(read_marks(tmp_path / "marks")) == 2


@both
async def test_a_start_which_cannot_be_marked_is_told(
    started: Started, options: dict[str, Any], tmp_path: Path
):
    remove_marks(tmp_path / "marks")
    async with started(options) as bench:
        remove_marks(tmp_path / "marks")
        packed = await bench.submit(nap, 0)
        assert value_of(packed) == "rested"
        assert b"start_mark" in packed
        assert b"No such file or directory" in packed


async def test_marks_of_earlier_lives(tmp_path: Path):
    one, two = "6d1c1f2e-0001-4c2c-a4e2-0a8c8b0f8f7d", "6d1c1f2e-0002-4c2c-a4e2-0a8c8b0f8f7d"
    life = open_marks(tmp_path)
    (life / "worker").write_text(f"{one}\n{two}\n-{two}\n{two[:20]}")
    (life / "other").write_text(f"{two[:5]}")
    assert read_marks(tmp_path) == {one}
    ours = open_marks(tmp_path)
    remove_marks(tmp_path, keep=ours)
    assert os.listdir(tmp_path) == [ours.name]
    assert read_marks(tmp_path / "nowhere") == frozenset()


async def test_marks_tell_where_a_task_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    life = open_marks(tmp_path)
    ids = [f"6d1c1f2e-000{n}-4c2c-a4e2-0a8c8b0f8f7d" for n in range(2)]
    for task_id, block in zip(ids, ("", "12"), strict=True):
        monkeypatch.setenv("PARSL_WORKER_BLOCK_ID", block)
        worker._marks_file.cache_clear()
        worker.execute(task_id, b"", {"endpoint_id": ids[0], "marks": str(life)})
    worker._marks_file.cache_clear()
    reader = MarksReader(life)
    reader.read()
    host = socket.gethostname()
    assert dict(reader.found) == {ids[0]: Place(host, None), ids[1]: Place(host, "12")}
