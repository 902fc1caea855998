# SPDX-License-Identifier: Apache-2.0
"""GlobusComputeEngine with real Parsl on this machine."""

import asyncio
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from globus_compute_sdk import ShellFunction

from engines.conftest import Bench, Started, error_in
from globus_compute_endpoint.engines import globus_compute, htex
from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
from support.tasks import read_result, value_of

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

ENGINE: dict[str, Any] = {
    "type": "GlobusComputeEngine",
    "max_workers_per_node": 2,
    "job_status_kwargs": {"strategy_period": 1},
    "provider": {"type": "LocalProvider", "init_blocks": 1, "max_blocks": 1, "min_blocks": 0},
}


def add(a: int, b: int) -> int:
    return a + b


def pid() -> int:
    import os

    return os.getpid()


def pool_pid() -> int:
    import os

    return os.getppid()


def nap(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "rested"


def now() -> float:
    import time

    return time.time()


def leave() -> None:
    import os

    os._exit(3)


async def test_files_where_the_endpoint_runs_are_no_modules(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("base64", "parsl", "pickle", "random", "socket", "zmq"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the module that was meant')")
    monkeypatch.chdir(tmp_path)
    async with started(ENGINE) as bench:
        assert await bench.value(add, 1, 2) == 3


DIES_UNTIL = """st
dies_until:def dies_until(path, run):
    import os
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < run:
        os._exit(3)
    return f"run {run}"
"""


def detach() -> int:
    import subprocess

    return subprocess.Popen(["sleep", "300"], start_new_session=True).pid


def modules() -> list[str]:
    import sys

    return [name for name in sys.modules if name.startswith("globus_compute_endpoint")]


def surroundings() -> tuple[str, str, str]:
    import os

    return os.environ["GC_TASK_UUID"], os.environ.get("GC_TASK_SANDBOX_DIR", ""), os.getcwd()


async def until_begun(bench: Bench, tasks: int) -> None:
    """Marks are seen when they are looked for; those of finished tasks are of no interest."""
    async with asyncio.timeout(10):
        while len(bench.begun) < tasks:  # noqa: ASYNC110  (there is nothing to wait for)
            await asyncio.sleep(0.1)


def descendants() -> set[int]:
    mine = psutil.Process().children(recursive=True)
    return {each.pid for each in mine if each.status() != psutil.STATUS_ZOMBIE}


async def test_tasks_run_quickly_and_nothing_stays(started: Started):
    began = time.monotonic()
    async with started(ENGINE) as bench:
        assert await bench.value(add, 1, 2) == 3
        assert time.monotonic() - began < 12  # the peer's cold start
        futures = [bench.submit(add, n, n) for n in range(200)]
        assert [value_of(await each) for each in futures] == [2 * n for n in range(200)]
        assert await bench.value(modules) == []  # our code travels; our package does not
        shell = await bench.value(ShellFunction("echo {{hello}}"))
        assert shell.stdout == "{hello}\n"
        left = await bench.value(detach)
        worker = await bench.value(pid)
        status = bench.engine.status()
        assert status.total_workers == 2
        assert await bench.error(add, "a", 1) == await bench.error(add, "a", 1)
        code, text = await bench.error(add, "a", 1)
        assert code == "RemoteExecutionError"
        assert "TypeError" in text
    for gone in (left, worker):
        assert not psutil.pid_exists(gone) or psutil.Process(gone).status() == "zombie"
    assert not descendants()


async def test_a_sandbox_is_the_tasks_own(started: Started, tmp_path: Path):
    for n in range(9):
        (tmp_path / "htex" / f"old-run-{n}").mkdir(parents=True)
    async with started(ENGINE | {"run_in_sandbox": True}) as bench:
        runs = await asyncio.to_thread(os.listdir, tmp_path / "htex")
        assert len(runs) == 6  # five of those before, and this one
        uuid, sandbox, directory = await bench.value(surroundings)
        assert sandbox == directory == str(tmp_path / "tasks_working_dir" / uuid)


async def test_a_dead_worker_costs_its_task(started: Started):
    async with started(ENGINE) as bench:
        assert await bench.value(add, 0, 0) == 0
        code, text = await bench.error(leave)
        assert code == "WorkerLost"
        assert "parsl.executors.high_throughput.errors.WorkerLost" in text
        assert await bench.value(add, 1, 1) == 2


async def test_a_lost_task_is_run_again_as_often_as_allowed(started: Started, tmp_path: Path):
    quick = {"heartbeat_period": 1}  # so often a pool looks whether its workers live
    async with started(ENGINE | quick | {"max_retries_on_system_failure": 2}) as bench:
        assert await bench.value(DIES_UNTIL, str(tmp_path / "third"), 3) == "run 3"
        neighbours = [bench.submit(nap, 0.2) for _ in range(10)]
        code, text = await bench.error(DIES_UNTIL, str(tmp_path / "fourth"), 4)
        assert (tmp_path / "fourth").read_text() == "xxx"  # so often it has really been run
        assert code == "WorkerLost"
        assert "It was tried 3 times:" in text
        assert len(re.findall(r"^  \d\. 2.* UTC: .*WorkerLost: Task failure", text, re.M)) == 3
        assert [value_of(await each) for each in neighbours] == ["rested"] * 10
        assert len({task_id for task_id, _ in bench.lost}) == 2
        assert len(bench.lost) == 4


async def test_a_dead_interchange_is_noticed_and_replaced(started: Started):
    async with started(ENGINE) as bench:
        assert await bench.value(add, 0, 0) == 0
        bench.begun.clear()
        running = [bench.submit(nap, 60) for _ in range(2)]
        waiting = bench.submit(nap, 0)
        await until_begun(bench, 2)
        assert isinstance(bench.engine, GlobusComputeEngine)
        life = bench.engine._life
        assert life is not None
        began = time.monotonic()
        os.kill(life.executor.interchange_proc.pid, signal.SIGKILL)
        for each in running:
            code, text = error_in(read_result(await asyncio.wait_for(each, 10)))
            assert time.monotonic() - began < 2
            assert code == "WorkerLost"
            assert "interchange" in text
        assert value_of(await waiting) == "rested"  # it had not begun
        assert not bench.lost  # nor was that an attempt
    assert not descendants()


async def test_an_interchange_which_hangs_is_replaced(
    started: Started, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(htex, "_COMMAND_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with started(ENGINE | {"worker_port": port}) as bench:  # which both need
        assert await bench.value(add, 0, 0) == 0
        assert isinstance(bench.engine, GlobusComputeEngine)
        life = bench.engine._life
        assert life is not None
        os.kill(life.executor.interchange_proc.pid, signal.SIGSTOP)
        assert await asyncio.wait_for(bench.value(add, 1, 1), 30) == 2
        assert bench.engine._life is not life
    assert not descendants()


async def test_a_pause_keeps_tasks_from_workers(started: Started):
    async with started(ENGINE) as bench:
        assert await bench.value(add, 0, 0) == 0
        bench.begun.clear()
        running = [bench.submit(nap, 3) for _ in range(2)]
        waiting = [bench.submit(nap, 0) for _ in range(3)]
        await until_begun(bench, 2)
        bench.engine.pause()
        await asyncio.wait_for(bench.engine.quiet(), 10)
        assert all(each.done() for each in running)
        assert not any(each.done() for each in waiting)
        assert bench.engine.busy == 0


async def test_a_dead_block_is_replaced(started: Started):
    async with started(ENGINE | {"heartbeat_period": 1, "heartbeat_threshold": 4}) as bench:
        pool = await bench.value(pool_pid)
        bench.begun.clear()
        running = bench.submit(nap, 60)
        await until_begun(bench, 1)
        os.kill(pool, signal.SIGKILL)
        code, text = error_in(read_result(await asyncio.wait_for(running, 30)))
        assert code == "WorkerLost"
        assert "ManagerLost" in text
        assert await bench.value(add, 1, 1) == 2


async def test_blocks_which_cannot_start_are_explained(started: Started):
    provider = ENGINE["provider"] | {"worker_init": "echo no such module >&2; exit 4"}
    async with started(ENGINE | {"provider": provider}) as bench:
        code, text = await bench.error(add, 1, 1)
        assert code == "NoWorkers"
        assert "no such module" in text
        assert "worker_init" in text


async def test_a_resource_specification_which_htex_does_not_take(
    started: Started, monkeypatch: pytest.MonkeyPatch
):
    async with started(ENGINE) as bench:
        code, text = await bench.error(add, 1, 1, resource_specification={"num_nodes": 2})
        assert code == "ResourceSpecificationError"
        assert "there is no 'num_nodes'; this endpoint takes priority" in text
        code, text = await bench.error(add, 1, 1, resource_specification={"priority": "high"})
        assert "priority must be a number" in text  # which would have ended the interchange
        # What nobody has thought of is that task's trouble, and not the executor's.
        beside = bench.submit(nap, 1)
        with monkeypatch.context() as patched:
            patched.setattr(globus_compute, "for_htex", lambda _: 1 / 0)
            assert (await bench.error(add, 1, 1))[0] == "WorkerDefect"
        assert read_result(await beside).error_details is None


async def test_what_has_priority_begins_before_what_came_first(started: Started):
    async with started(ENGINE | {"max_workers_per_node": 1}) as bench:
        first = bench.submit(nap, 1.5)
        waiting = [
            bench.submit(now, resource_specification={"priority": priority})
            for priority in (3, 2.5, -1)
        ]
        waiting.append(bench.submit(now))  # without: behind all others
        await first
        ends = [value_of(await each) for each in waiting]
        assert sorted(range(4), key=ends.__getitem__) == [2, 1, 0, 3]


PEER = Path(os.environ.get("PEER_VENV", "/var/cache/globus-compute-tests/peer")).resolve()


def versions() -> dict[str, str]:
    import importlib.metadata
    import sys

    names = ["globus-compute-endpoint", "globus-compute-sdk", "parsl"]
    return {"prefix": sys.prefix} | {name: importlib.metadata.version(name) for name in names}


@pytest.mark.skipif(not PEER.is_dir(), reason="needs an environment with the peer: make test")
async def test_workers_may_live_where_our_import_name_is_the_peers(started: Started):
    worker_init = f"unset PYTHONPATH\nexport PATH={PEER}/bin:$PATH"
    provider = ENGINE["provider"] | {"worker_init": worker_init}
    async with started(ENGINE | {"provider": provider}) as bench:
        found = await bench.value(versions)
        assert found["prefix"] == str(PEER)
        assert found["globus-compute-endpoint"].startswith("4.")
        assert await bench.value(modules) == []
        shell = await bench.value(ShellFunction("echo hello"))
        assert shell.stdout == "hello\n"
