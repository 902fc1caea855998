# SPDX-License-Identifier: Apache-2.0
"""A whole user endpoint against a real broker, by the launch document of its manager."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from globus_compute_sdk import ShellFunction

from endpoint.conftest import rabbitmqctl
from endpoint.harness import Harness
from globus_compute_endpoint.host.paths import JOURNAL_FILE, holds_work
from support.tasks import packed_task, value_of

pytestmark = pytest.mark.timeout(90)

THREADS = "engine: {type: ThreadPoolEngine, max_workers: 2}\nheartbeat_period: 0.5\n"
PROCESSES = "engine: {type: ProcessPoolEngine, max_workers: 2}\nheartbeat_period: 0.5\n"
both = pytest.mark.parametrize("template", [THREADS, PROCESSES], ids=["threads", "processes"])


def add(a: int, b: int) -> int:
    return a + b


def nap(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "rested"


def terminated() -> int | None:
    import multiprocessing
    import time

    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode


def fail() -> None:
    raise ValueError("the moon is not made of cheese")


def leave(status: int) -> None:
    import os

    os._exit(status)


def value(harness: Harness, task_id: str) -> Any:
    harness.result(task_id)
    packed = next(raw for raw in harness.raw_results if task_id.encode() in raw)
    return value_of(packed)


def error_of(harness: Harness, task_id: str) -> tuple[str, str]:
    result = harness.result(task_id)
    assert result.error_details is not None
    return result.error_details.code, result.data


@both
def test_a_task_goes_round(harness: Harness, template: str):
    harness.start(template)
    task_id = harness.submit(add, 1, b=2)
    assert value(harness, task_id) == 3
    result = harness.results[task_id]
    assert result.details is not None
    assert result.details["endpoint_id"] == harness.endpoint_id
    assert {"os", "python_version", "dill_version", "globus_compute_sdk_version"} <= set(
        result.details
    )
    assert result.task_statuses is not None
    times = [each.timestamp for each in result.task_statuses]
    assert times == sorted(times)
    assert abs(times[-1] - time.time_ns()) < 60e9
    harness.wait_for(lambda: harness.queued() == 0)
    assert list(dict.fromkeys(harness.states())) == ["starting", "running"]
    assert json.loads((harness.directory / "endpoint.json").read_text()) == {
        "endpoint_id": harness.endpoint_id
    }
    assert harness.log.startswith(f"========== Endpoint begins: {harness.endpoint_id}\n")
    told = [line for line in harness.log.splitlines() if task_id in line]
    assert len(told) >= 3
    assert harness.process is not None
    title = Path(f"/proc/{harness.process.pid}/cmdline").read_text()
    assert title.startswith(f"Globus Compute Endpoint ({harness.endpoint_id}, {harness.name})")


@both
def test_what_a_task_forks_ends_by_sigterm_alone(harness: Harness, template: str):
    """It inherits the handlers of the process, and where those write into its event loop."""
    harness.start(template)
    assert value(harness, harness.submit(terminated)) == -signal.SIGTERM
    assert value(harness, harness.submit(add, 1, 2)) == 3


@both
def test_heartbeats_tell_the_period_and_then_a_farewell(harness: Harness, template: str):
    harness.start(template)
    harness.wait_for(lambda: len(harness.heartbeats) >= 3)
    state = harness.heartbeats[0].global_state
    assert state["heartbeat_period"] == 0.5
    assert state["total_workers"] == 2
    assert harness.process is not None
    harness.process.send_signal(signal.SIGTERM)
    assert harness.exit_status() == 0
    last = harness.heartbeats[-1].global_state
    assert (last["heartbeat_period"], last["active"]) == (0, False)
    assert harness.states()[-1] == "stopped"


@both
def test_what_a_function_raises_reaches_the_researcher(harness: Harness, template: str):
    harness.start(template)
    code, text = error_of(harness, harness.submit(fail))
    assert code == "RemoteExecutionError"
    assert text.startswith("Traceback (most recent call last):")
    assert text.rstrip().endswith("ValueError: the moon is not made of cheese")
    assert "worker/task.py" not in text


@both
def test_shell_functions_run(harness: Harness, template: str):
    harness.start(template)
    task_id = harness.submit(ShellFunction("echo hello {who}; pwd"), who="world")
    result = value(harness, task_id)
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == "hello world"


@both
def test_plain_source_runs(harness: Harness, template: str):
    harness.start(template)
    source = "st\ndouble:def double(x):\n    return 2 * x\n"
    assert value(harness, harness.submit(source, 21)) == 42


@both
def test_messages_which_are_no_tasks(harness: Harness, template: str):
    harness.start(template)
    task_id, body = packed_task(add, 1, 2)
    harness.send(body, {})  # no headers, but the body tells the id
    assert error_of(harness, task_id)[0] == "MalformedTask"
    garbage = str(uuid4())
    harness.send(b"\x01{garbage", {"task_uuid": garbage, "function_uuid": str(uuid4())})
    assert error_of(harness, garbage)[0] == "MalformedTask"
    harness.send(b"neither", {"task_uuid": "x"})
    bad_spec = {"resource_specification": "[1]"}
    code, text = error_of(harness, harness.submit(add, 1, 2, headers=bad_spec))
    assert code == "MalformedTask"
    assert "resource_specification" in text
    assert value(harness, harness.submit(add, 1, 2)) == 3
    harness.wait_for(lambda: harness.queued() == 0)
    assert "not a task, and is dropped" in harness.log


@both
def test_reports_say_once_which_tasks_have_begun(harness: Harness, template: str):
    harness.start(template)
    slow = harness.submit(nap, 2)
    told: list[str] = []

    def report() -> bool:
        told[:] = [
            f"{task_id} {each.state.value}"
            for beat in harness.heartbeats
            for task_id, transitions in beat.task_statuses.items()
            for each in transitions
        ]
        return bool(told)

    harness.wait_for(report)
    assert slow not in harness.results
    harness.result(slow)
    harness.tell({"type": "drain"})
    assert harness.exit_status() == 0
    report()
    assert told == [f"{slow} execution-start"]


@both
def test_too_much_and_unserializable_results(harness: Harness, template: str):
    harness.start(template)
    code, text = error_of(harness, harness.submit("st\nbig:def big():\n    return b'x' * 11000000"))
    assert code == "MaxResultSizeExceeded"
    assert "10485760" in text
    lock = "st\nlock:def lock():\n    import _thread, sys\n    return sys._getframe()"
    code, text = error_of(harness, harness.submit(lock))
    assert code == "ResultSerializationError"
    assert "Return plain data" in text


def test_a_worker_which_dies_costs_its_own_task_only(harness: Harness):
    harness.start(PROCESSES)
    other = harness.submit(nap, 1)
    lost = harness.submit(leave, 7)
    after = [harness.submit(add, n, n) for n in range(5)]
    code, text = error_of(harness, lost)
    assert code == "WorkerLost"
    assert "exit status 7" in text
    assert value(harness, other) == "rested"
    assert [value(harness, each) for each in after] == [0, 2, 4, 6, 8]


def test_a_sandbox_and_a_timeout_in_processes(harness: Harness):
    template = "engine: {type: ProcessPoolEngine, max_workers: 1, run_in_sandbox: true}\n"
    harness.start(template, environment={"GC_TASK_TIMEOUT": "0.5"})
    where = "st\nwhere:def where():\n    import os\n    return os.getcwd()"
    task_id = harness.submit(where)
    assert value(harness, task_id) == str(harness.directory / "tasks_working_dir" / task_id)
    code, text = error_of(harness, harness.submit(nap, 20))
    assert code == "TaskTimeout"
    assert "0.5 s" in text
    assert value(harness, harness.submit(add, 1, 2)) == 3


@pytest.mark.parametrize(
    ("template", "more", "told"),
    [
        ("engine: {type: ThreadPoolEngine, run_in_sandbox: true}", {}, "ThreadPoolEngine cannot"),
        (THREADS, {"environment": {"GC_TASK_TIMEOUT": "5"}}, "GC_TASK_TIMEOUT"),
        ("engine: {type: NoSuchEngine}", {}, "engine"),
        ("engine: {type: ThreadPoolEngine, max_workers: {{ n }}}", {}, "'n' is undefined"),
        (THREADS, {"user_opts": {"_GC": 1}}, "reserved"),
        (THREADS + "endpoint_setup: exit 3", {}, "exit status 3"),
        (
            THREADS,
            {"user_opts": {"n": "x"}, "schema": {"properties": {"n": {"type": "integer"}}}},
            "user_endpoint_config.n: 'x' is not of type 'integer'",
        ),
    ],
)
def test_a_failed_start_is_told_to_the_researcher(
    harness: Harness, template: str, more: dict[str, Any], told: str
):
    harness.start(template, **more)
    assert harness.exit_status() == 78
    state = harness.heartbeats[-1].global_state
    assert told in state["error"]
    assert state["heartbeat_period"] == 3
    assert harness.states()[-1] == "failed"


@both
def test_an_idle_endpoint_ends(harness: Harness, template: str):
    harness.start(template.replace("0.5", "0.2") + "idle_heartbeats_soft: 4\n")
    assert value(harness, harness.submit(nap, 1.5)) == "rested"  # more than 4 heartbeats
    assert harness.exit_status(10) == 0
    assert "idle for 4 heartbeats" in harness.log


def test_a_stuck_endpoint_ends(harness: Harness):
    more = "idle_heartbeats_soft: 2\nidle_heartbeats_hard: 4\n"
    harness.start(PROCESSES.replace("0.5", "0.2") + more)
    harness.submit(nap, 300)
    assert harness.exit_status(15) == 0
    assert "nothing moved" in harness.log
    assert holds_work(harness.directory)


def test_stopping_keeps_what_is_not_done(harness: Harness):
    harness.start(PROCESSES)
    done = harness.submit(add, 1, 1)
    harness.result(done)
    running = [harness.submit(nap, 60) for _ in range(2)]
    waiting = [harness.submit(add, each, 1) for each in range(3)]
    assert harness.process is not None
    harness.wait_for(lambda: harness.log.count("received") >= 6)
    group = os.popen(f"pgrep -P {harness.process.pid}").read().split()
    assert len(group) == 2
    harness.process.send_signal(signal.SIGQUIT)
    assert harness.exit_status(10) == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in group)
    assert (harness.queued(), holds_work(harness.directory)) == (0, True)
    harness.start(PROCESSES)
    assert [value(harness, each) for each in waiting] == [1, 2, 3]
    for each in running:
        code, text = error_of(harness, each)
        assert code == "TaskInterrupted"
        assert "it was stopped (SIGQUIT received)" in text


def test_draining_finishes_what_has_begun(harness: Harness):
    harness.start(PROCESSES)
    tasks = [harness.submit(nap, 1) for _ in range(4)]
    harness.wait_for(lambda: harness.log.count(" given to") == 2)
    harness.tell({"type": "drain"})
    assert harness.exit_status(15) == 0
    assert sorted(harness.results) == sorted(tasks[:2])
    assert (harness.queued(), holds_work(harness.directory)) == (0, True)
    assert "draining" in harness.states()
    harness.start(PROCESSES)
    assert [value(harness, each) for each in tasks] == ["rested"] * 4
    harness.tell({"type": "drain"})
    assert harness.exit_status(15) == 0
    assert not holds_work(harness.directory)
    assert not (harness.directory / JOURNAL_FILE).exists()


def test_the_managers_end_is_not_ours(harness: Harness):
    harness.start(THREADS)
    assert value(harness, harness.submit(add, 1, 1)) == 2
    assert harness.control is not None
    harness.control.close()
    harness.control = None
    assert value(harness, harness.submit(add, 1, 2)) == 3


def test_a_second_instance_is_refused(harness: Harness, tmp_path: Any):
    harness.start(THREADS)
    harness.result(harness.submit(add, 1, 1))
    first, control = harness.process, harness.control
    harness.start(THREADS)
    assert harness.exit_status() == 73
    assert first is not None and first.poll() is None
    first.terminate()
    first.wait(15)
    assert control is not None
    control.close()


def test_a_lost_connection_runs_nothing_twice(harness: Harness):
    harness.start(PROCESSES)
    harness.result(harness.submit(add, 0, 0))
    marker = harness.home / "ran"
    script = (
        "st\nrun:def run(path):\n    import time\n    open(path, 'a').write('x')\n"
        "    time.sleep(2)\n    return 'ok'"
    )
    task_id = harness.submit(script, str(marker))
    harness.wait_for(marker.exists)
    for line in rabbitmqctl("list_connections", "pid", "client_properties").splitlines():
        if harness.endpoint_id in line:
            rabbitmqctl("close_connection", line.split("\t")[0], "test")
    assert value(harness, task_id) == "ok"
    harness.wait_for(lambda: harness.queued() == 0)
    assert marker.read_text() == "x"


def test_a_result_which_the_broker_finds_too_large_is_an_error(harness: Harness):
    def limit(size: int) -> None:
        rabbitmqctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")

    default = rabbitmqctl("eval", "application:get_env(rabbit, max_message_size).")
    limit(100_000)
    try:
        harness.start(PROCESSES)
        large = harness.submit("st\nlarge:def large():\n    return b'x' * 200000")
        small = [harness.submit(add, number, 1) for number in range(5)]
        code, text = error_of(harness, large)
        assert code == "MaxResultSizeExceeded"
        assert "its limit is 100000" in text
        assert [value(harness, each) for each in small] == [1, 2, 3, 4, 5]
        assert harness.log.count("message size") == 1
        harness.tell({"type": "drain"})
        assert harness.exit_status() == 0
    finally:
        limit(int("".join(filter(str.isdigit, default))))


def test_fresh_credentials_are_used(harness: Harness):
    harness.start(THREADS)
    harness.result(harness.submit(add, 0, 0))
    user = f"fresh-{harness.endpoint_id[:8]}"
    rabbitmqctl("add_user", user, "pw")
    rabbitmqctl("set_permissions", user, ".*", ".*", ".*")
    fresh = harness.credentials(f"amqp://{user}:pw@127.0.0.1:5672/%2F")
    harness.tell({"type": "credentials", "amqp_creds": fresh})
    harness.wait_for(lambda: user in rabbitmqctl("list_connections", "user"), 15)
    assert value(harness, harness.submit(add, 1, 2)) == 3
    harness.tell({"type": "nonsense"})
    harness.tell({"type": "stop"})
    assert harness.exit_status(15) == 0
    rabbitmqctl("delete_user", user)


def test_a_task_which_ends_its_endpoint_ends_it_once(harness: Harness):
    harness.start(THREADS)
    harness.result(harness.submit(add, 0, 0))
    harness.wait_for(lambda: any(frame["progress"] for frame in harness.frames()))
    poison = harness.submit(leave, 3)
    harmless = [harness.submit(nap, 0.2) for _ in range(5)]
    assert harness.exit_status() == 3
    harness.start(THREADS)
    harness.wait_for(lambda: any(frame["progress"] for frame in harness.frames()))
    code, text = error_of(harness, poison)
    assert code == "TaskInterrupted"
    assert "its process ended unexpectedly" in text
    for each in harmless:
        harness.result(each)
    answers = [harness.results[each].error_details for each in harmless]
    assert sum(each is not None for each in answers) <= 1  # what ran beside it, in the same process
    assert value(harness, harness.submit(add, 1, 2)) == 3


def test_kill_9_loses_no_task(harness: Harness):
    harness.start(PROCESSES)
    harness.result(harness.submit(add, 0, 0))
    tasks = [harness.submit(nap, 0.2) for _ in range(10)]
    harness.wait_for(lambda: tasks[1] in harness.results)
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()
    harness.start(PROCESSES)
    results = [harness.result(each) for each in tasks]
    codes = [each.error_details.code for each in results if each.error_details is not None]
    assert codes in (["TaskInterrupted"] * 2, ["TaskInterrupted"])  # what the two workers had
    assert len(set(harness.raw_results)) == 11  # one may come twice, but no two differ


def test_kill_9_leaves_no_interchange(harness: Harness):
    template = (
        "engine: {type: GlobusComputeEngine, max_workers_per_node: 1,"
        " heartbeat_period: 1, heartbeat_threshold: 3, provider: {type: LocalProvider}}\n"
    )
    harness.start(template)
    assert value(harness, harness.submit(add, 1, 2)) == 3
    assert harness.process is not None
    children = psutil.Process(harness.process.pid).children()
    assert [" ".join(each.cmdline()).strip() for each in children] == ["parsl: HTEX interchange"]

    def blocks() -> bytes:
        command = ["pgrep", "-f", f"process_worker_pool.*{harness.endpoint_id}"]
        return subprocess.run(command, capture_output=True, check=False).stdout

    assert blocks()
    harness.process.kill()
    harness.process.wait()
    harness.wait_for(lambda: not children[0].is_running(), 5)
    harness.wait_for(lambda: not blocks(), 30)


def test_setup_and_teardown_scripts_run(harness: Harness):
    scripts = "endpoint_setup: touch set-up\nendpoint_teardown: touch torn-down; exit 1\n"
    harness.start(THREADS + scripts)
    assert value(harness, harness.submit(add, 1, 2)) == 3
    assert (harness.home / "set-up").exists()
    assert not (harness.home / "torn-down").exists()
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0  # a failed teardown is logged, and nobody's failure
    assert (harness.home / "torn-down").exists()
    assert "endpoint_teardown failed with exit status 1" in harness.log
    assert "error" not in harness.heartbeats[-1].global_state
