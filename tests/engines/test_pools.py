# SPDX-License-Identifier: Apache-2.0
"""ThreadPoolEngine and ProcessPoolEngine, without any broker."""

import asyncio
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from globus_compute_sdk import ShellFunction
from globus_compute_sdk.serialize import JSONData
from pydantic import TypeAdapter, ValidationError

from engines.conftest import Started, error_in
from globus_compute_endpoint.config.engines import EngineConfig
from support.tasks import read_result
from support.waiting import until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

THREADS: dict[str, Any] = {"type": "ThreadPoolEngine", "max_workers": 2}
PROCESSES: dict[str, Any] = {"type": "ProcessPoolEngine", "max_workers": 2}
both = pytest.mark.parametrize("options", [THREADS, PROCESSES], ids=["threads", "processes"])


def add(a: int, b: int) -> int:
    return a + b


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    import os

    return os.getpid()


def nap(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "rested"


def end(number: int) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.Signals(number))


def exit_politely() -> None:
    import sys

    sys.exit("enough")


def stray() -> None:
    import os

    os.chdir("/")
    os.environ["STRAYED"] = "yes"


def here() -> str:
    import os

    return os.getcwd()


def on_event_loop() -> str:
    import asyncio

    async def inner() -> str:
        await asyncio.sleep(0)
        return "looped"

    return asyncio.run(inner())


def in_processes() -> int:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, [-1, -2, -3]))


def terminated_at_once() -> set[int | None]:
    import multiprocessing
    import time

    ends = set()
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        process.start()
        process.terminate()
        process.join(10)
        ends.add(process.exitcode)
    return ends


def fork_which(comes: str) -> Any:
    import os
    import sys

    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if comes == "raises":
        raise RuntimeError("of the fork")
    if comes == "exits":
        sys.exit(7)
    return "the fork's answer"


def sleepers() -> list[int]:
    listed = subprocess.run(
        ["pgrep", "-f", "^sleep 301"], capture_output=True, text=True, check=False
    )
    return [int(each) for each in listed.stdout.split()]


@both
async def test_many_tasks_each_with_its_own_result(started: Started, options: dict[str, Any]):
    async with started(options) as bench:
        values = await asyncio.gather(*[bench.value(add, n, n) for n in range(300)])
        assert values == [2 * n for n in range(300)]


@both
async def test_large_arguments_and_results(started: Started, options: dict[str, Any]):
    async with started(options) as bench:
        text = "x" * 7_000_000
        assert await bench.value(echo, text) == text


@both
async def test_ordinary_python_works(started: Started, options: dict[str, Any]):
    async with started(options) as bench:
        assert await bench.value(on_event_loop) == "looped"
        code, text = await bench.error(exit_politely)
        assert code == "RemoteExecutionError"
        assert "SystemExit: enough" in text


@both
async def test_serializers_of_the_researchers_choice(started: Started, options: dict[str, Any]):
    chosen = ("globus_compute_sdk.serialize.JSONData",)
    async with started(options) as bench:
        packed = await bench.submit(echo, [1, 2], result_serializers=chosen)
        result = read_result(packed)
        assert result.data.startswith(JSONData.identifier)
        code, _ = await bench.error(echo, {1, 2}, result_serializers=chosen)
        assert code == "ResultSerializationError"


@both
async def test_only_allowed_serializers_are_read(started: Started, options: dict[str, Any]):
    allowed = ["globus_compute_sdk.serialize.CombinedCode", "globus_compute_sdk.serialize.JSONData"]
    async with started(options | {"allowed_serializers": allowed}) as bench:
        _, text = await bench.error(add, 1, 2)
        assert "disabled by current configuration" in text
        assert "Allowed serializers: CombinedCode, JSONData" in text


async def test_an_allowlist_needs_code_and_data():
    options = THREADS | {"allowed_serializers": ["globus_compute_sdk.serialize.DillCodeSource"]}
    with pytest.raises(ValidationError, match="at least one code and one data"):
        TypeAdapter(EngineConfig).validate_python(options)


async def test_processes_can_have_processes(started: Started):
    async with started(PROCESSES) as bench:
        assert await bench.value(in_processes) == 6


@both
async def test_what_a_task_forks_is_no_worker(started: Started, options: dict[str, Any]):
    async with started(options) as bench:
        ends = [await bench.value(fork_which, each) for each in ("returns", "raises", "exits")]
        assert ends == [0, 1, 7]


async def test_sigterm_is_for_the_processes_of_a_task(started: Started):
    """Else multiprocessing waits for ever for those which it ends."""
    async with started(PROCESSES) as bench:
        assert await bench.value(terminated_at_once) == {-signal.SIGTERM}
        worker = await bench.value(pid)
        os.kill(worker, signal.SIGTERM)
        assert await bench.value(nap, 0.1) == "rested"
        assert not bench.lost


async def test_a_task_cannot_move_the_next_ones(started: Started, tmp_path: Path):
    async with started(PROCESSES | {"max_workers": 1}) as bench:
        await bench.value(stray)
        assert await bench.value(here) == str(tmp_path / "tasks_working_dir")


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGKILL, "out of memory"), (signal.SIGSEGV, "library written in C")],
)
async def test_a_killed_worker_is_explained_and_replaced(
    started: Started, number: signal.Signals, told: str
):
    async with started(PROCESSES) as bench:
        other = bench.submit(nap, 1)
        code, text = await bench.error(end, int(number))
        assert code == "WorkerLost"
        assert number.name in text
        assert told in text
        assert read_result(await other).error_details is None
        assert len({await bench.value(pid) for _ in range(20)}) <= 2
        assert bench.engine.status().total_workers == 2


async def test_poison_ends_after_its_retries_and_the_others_go_on(started: Started):
    async with started(PROCESSES | {"max_retries_on_system_failure": 2}) as bench:
        neighbours = [bench.submit(nap, 0.05) for _ in range(10)]
        _, text = await bench.error(end, int(signal.SIGKILL))
        assert "It was tried 3 times:" in text
        history = re.findall(
            r"^  \d\. 2.* UTC: The worker process .* was killed by SIGKILL", text, re.M
        )
        assert len(history) == 3
        for each in neighbours:
            assert read_result(await each).error_details is None
        assert len({task_id for task_id, _ in bench.lost}) == 1
        assert [entry in text for _, entry in bench.lost] == [True, True]


async def test_attempts_of_earlier_lives_count(started: Started):
    async with started(PROCESSES | {"max_retries_on_system_failure": 2}) as bench:
        history = ("2026-01-01 00:00:00 UTC: the host was restarted",)
        _, text = await bench.error(end, int(signal.SIGKILL), history=history)
        assert "It was tried 3 times:\n  1. 2026-01-01 00:00:00 UTC: the host was restarted" in text
        assert len(bench.lost) == 1


async def test_an_idle_worker_which_is_killed_is_replaced(started: Started):
    async with started(PROCESSES | {"max_workers": 1}) as bench:
        victim = await bench.value(pid)
        os.kill(victim, signal.SIGKILL)
        assert await bench.value(pid) != victim


async def test_sigterm_is_for_the_endpoint_and_not_for_workers(started: Started):
    async with started(PROCESSES | {"max_workers": 1}) as bench:
        worker = await bench.value(pid)
        napping = bench.submit(nap, 0.5)
        os.kill(worker, signal.SIGTERM)
        assert read_result(await napping).error_details is None


@both
async def test_stopping_leaves_no_process(started: Started, options: dict[str, Any]):
    async with started(options) as bench:
        await bench.value(ShellFunction("true"))
        left = bench.submit(ShellFunction("exec sleep 301"))
        await asyncio.to_thread(until, sleepers)
        assert not left.done()
    assert not sleepers()
    assert not psutil.Process().children()


async def test_shell_functions_on_threads_have_processes_of_their_own(started: Started):
    async with started(THREADS) as bench:
        before = Path.cwd()
        results = await asyncio.gather(
            *[bench.value(ShellFunction("echo $GC_TASK_UUID; sleep 0.2; pwd")) for _ in range(4)]
        )
        lines = [each.stdout.splitlines() for each in results]
        assert len({uuid for uuid, _ in lines}) == 4
        assert Path.cwd() == before
        variables = (await bench.value(ShellFunction("env"))).stdout.splitlines()
        ours = [each for each in variables if each.startswith("PYTHONPATH=")]
        given = os.environ.get("PYTHONPATH")
        assert ours == ([f"PYTHONPATH={given}"] if given else [])


async def test_no_worker_thread_outlives_its_tasks(started: Started):
    async with started(THREADS) as bench:
        await bench.value(add, 1, 1)

    def gone() -> bool:
        return not [each for each in threading.enumerate() if each.name.startswith("task")]

    await asyncio.to_thread(until, gone)


async def test_a_malformed_body_is_told(started: Started):
    from globus_compute_endpoint.engines.base import TaskRequest

    async with started(PROCESSES) as bench:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        task_id = "7b7c6cc1-67a3-4c2c-a4e2-0a8c8b0f8f7d"
        bench._results[task_id] = future
        bench.engine.submit(TaskRequest(task_id, b"\x01{}", 0))
        assert error_in(read_result(await future))[0] == "MalformedTask"


@both
async def test_a_resource_specification_is_refused(started: Started, options: dict[str, Any]):
    async with started(options) as bench:
        code, text = await bench.error(add, 1, 1, resource_specification={"num_nodes": 2})
        assert code == "ResourceSpecificationError"
        assert "takes no resource_specification" in text
