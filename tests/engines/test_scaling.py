# SPDX-License-Identifier: Apache-2.0
"""Blocks of GlobusComputeEngine: as many as there is work for, within the provider's bounds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines.conftest import Bench, Started
from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
from support.tasks import value_of

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


def engine(**provider: int) -> dict[str, Any]:
    return {
        "type": "GlobusComputeEngine",
        "max_workers_per_node": 1,
        "job_status_kwargs": {"strategy_period": 0.3, "max_idletime": 3},
        "provider": {"type": "LocalProvider", **provider},
    }


def nap(seconds: float) -> int:
    import os
    import time

    time.sleep(seconds)
    return os.getppid()


def blocks(directory: Path) -> set[int]:
    """The worker pools, of which a block of one node has one; whose log is below a directory."""
    found = set()
    for process in psutil.process_iter(["cmdline", "ppid"]):
        words = process.info["cmdline"] or []
        pool = any(word.endswith("/process_worker_pool.py") for word in words[:4])
        if pool and any(str(directory) in word for word in words):
            found.add((process.pid, process.info["ppid"]))
    pids = {pid for pid, _ in found}
    return {pid for pid, parent in found if parent not in pids}  # not its forks


class Watch:
    """How many blocks there were, looked at ten times a second."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        self.most = 0

    def blocks(self) -> set[int]:
        return blocks(self.directory)

    async def run(self) -> None:
        while True:
            self.most = max(self.most, len(self.blocks()))
            await asyncio.sleep(0.1)

    async def until(self, count: int) -> None:
        """Wait until the processes and the figures in heartbeats agree on a number."""
        deadline = time.monotonic() + 20
        while not len(self.blocks()) == count == self.bench.engine.status().blocks_running:
            assert time.monotonic() < deadline, self.bench.engine.status()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def watched(started: Started, directory: Path, **provider: int) -> AsyncIterator[Watch]:
    async with started(engine(**provider)) as bench:
        watch = Watch(bench, directory)
        running = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            running.cancel()


async def test_blocks_follow_the_work_out_and_in_and_out_again(started: Started, tmp_path: Path):
    async with watched(started, tmp_path, init_blocks=0, min_blocks=0, max_blocks=2) as watch:
        await asyncio.sleep(1)
        assert not watch.blocks()
        assert watch.bench.engine.status().max_blocks == 2
        futures = [watch.bench.submit(nap, 1.5) for _ in range(6)]
        await watch.until(2)
        pools = {value_of(await each) for each in futures}
        assert len(pools) == 2
        await watch.until(0)
        assert await watch.bench.value(nap, 0) not in pools
        assert watch.most == 2


async def test_no_fewer_blocks_than_the_least(started: Started, tmp_path: Path):
    async with watched(started, tmp_path, init_blocks=2, min_blocks=1, max_blocks=2) as watch:
        await watch.until(2)
        await watch.until(1)
        await asyncio.sleep(5)  # longer than an idle block may stay
        assert len(watch.blocks()) == 1
        assert watch.most == 2


async def test_a_slow_block_is_not_let_go_while_a_task_waits(started: Started, tmp_path: Path):
    """Parsl's htex_auto_scale would submit and cancel blocks for ever."""
    options = engine(init_blocks=0, max_blocks=1) | {
        "max_workers_per_node": 2,
        "strategy": "htex_auto_scale",
        "job_status_kwargs": {"strategy_period": 0.3, "max_idletime": 0.5},
    }
    options["provider"] |= {"worker_init": "sleep 2"}
    async with started(options) as bench:
        await bench.value(nap, 0)
        runs = await asyncio.to_thread(os.listdir, tmp_path / "htex")
        files = await asyncio.to_thread(os.listdir, tmp_path / "htex" / runs[0] / "submit_scripts")
        assert len([each for each in files if each.endswith(".sh")]) == 1


def unanswered(jobs: list[str]) -> list[bool]:
    raise subprocess.TimeoutExpired("scancel", 10)


async def test_only_idle_blocks_are_let_go(started: Started, monkeypatch: pytest.MonkeyPatch):
    options = engine(init_blocks=2, max_blocks=2)
    async with started(options | {"job_status_kwargs": {"strategy_period": 60}}) as bench:
        busy = await bench.value(nap, 0), bench.submit(nap, 2)
        engine_ = bench.engine
        assert isinstance(engine_, GlobusComputeEngine)
        assert engine_._life is not None
        executor = engine_._life.executor
        with monkeypatch.context() as patch:
            patch.setattr(executor.provider, "cancel", unanswered)
            with pytest.raises(subprocess.TimeoutExpired):
                await asyncio.to_thread(executor.scale_in_facade, 2)
        assert all(each["active"] for each in executor.connected_managers())
        let_go = await asyncio.to_thread(executor.scale_in_facade, 2)
        assert len(let_go) == 1
        assert isinstance(value_of(await busy[1]), int)
        assert len(await asyncio.to_thread(executor.scale_in_facade, 2)) == 1
