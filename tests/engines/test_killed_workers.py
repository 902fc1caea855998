# SPDX-License-Identifier: Apache-2.0
"""Workers of HTEX which are killed, as the kernel does when memory is short: the pool goes on."""

import asyncio
import contextlib
import os
import random
import signal
from typing import Any

import psutil
import pytest

from engines.conftest import Bench, Started
from engines.test_globus_compute import ENGINE, add, pid
from support.tasks import read_result, value_of

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(90)]

QUICK: dict[str, Any] = ENGINE | {"heartbeat_period": 1}  # so often a pool replaces dead workers


def meet() -> int:
    import os
    import time

    time.sleep(0.5)
    return os.getpid()


def leave_a_fork() -> int:
    import os
    import time

    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.5)
    return os.getpid()


def leave_a_fork_of_c() -> int:
    import ctypes
    import os
    import time

    if ctypes.CDLL(None).fork() == 0:  # of which Python is not told
        time.sleep(60)
        os._exit(0)
    time.sleep(0.5)
    return os.getpid()


def length(text: str) -> int:
    return len(text)


def echo(text: str) -> str:
    return text


async def both_workers(bench: Bench, function: Any) -> set[int]:
    return {value_of(await each) for each in [bench.submit(function) for _ in range(2)]}


async def test_idle_workers_which_are_killed_cost_nothing(started: Started):
    text = "x" * 1_000_000  # more than a channel takes in which nobody reads
    async with started(QUICK) as bench:
        for function in (
            meet,
            leave_a_fork,
            leave_a_fork_of_c,
        ):  # what is left must not stand for its worker
            for victim in await both_workers(bench, function):
                os.kill(victim, signal.SIGKILL)
            async with asyncio.timeout(20):
                tasks = [bench.submit(length, text) for _ in range(20)]
                assert [value_of(await each) for each in tasks] == [len(text)] * 20
        assert not bench.lost


async def test_a_pool_has_no_semaphores_which_could_outlive_it(started: Started):
    """Those of multiprocessing are files in memory, left behind by whoever is killed."""
    async with started(ENGINE) as bench:
        worker = psutil.Process(await bench.value(pid))
        for process in (worker, *worker.parents()[:1]):
            assert not [each.path for each in process.memory_maps() if "/sem.mp-" in each.path]


def pool_workers() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [each for each in mine if "spawn_main" in " ".join(each.cmdline())]


async def test_at_any_moment_no_task_is_without_an_answer(started: Started):
    """Also while a task is on its way to a worker, or a result from it, which takes its time."""
    chance = random.Random(7)
    text = "x" * 5_000_000
    kills = 5
    async with started(QUICK) as bench:
        assert await bench.value(add, 0, 0) == 0
        tasks = [bench.submit(echo, text) for _ in range(40)]
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.2, 0.6))
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                chance.choice(pool_workers()).kill()
        async with asyncio.timeout(60):
            results = [read_result(await each) for each in tasks]
        lost = [each.error_details.code for each in results if each.error_details]
        assert lost == ["WorkerLost"] * len(lost)
        assert len(lost) <= kills
        assert len(bench.lost) == 0
