# SPDX-License-Identifier: Apache-2.0
"""The worker's code travels: it may lean on nothing of ours."""

import ast
import base64
import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from globus_compute_endpoint.engines.marks import read_marks
from globus_compute_endpoint.worker import task as worker
from globus_compute_endpoint.worker.shipping import payload, pool_command
from support.tasks import packed_task, read_result, value_of

CONTEXT = {"endpoint_id": str(uuid4()), "received": time.time_ns()}


def text_of_task() -> str:
    context, _ = payload(str(uuid4()), b"", CONTEXT)
    return zlib.decompress(context["task_executor"]["a"][0]["source"]).decode()


def text_of_pool() -> str:
    entry = zlib.decompress(base64.b64decode(pool_command().split('"')[1])).decode()
    (call,) = [each for each in entry.splitlines() if each.startswith("main(")]
    return str(ast.literal_eval(call.removeprefix("main"))[0])


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (text_of_task(), {"dill", "globus_compute_sdk", "globus_compute_common", "psutil"}),
        (text_of_pool(), {"parsl", "psutil"}),
    ],
    ids=["task", "pool"],
)
def test_it_imports_only_what_workers_have(text: str, more: set[str]):
    allowed = {*sys.stdlib_module_names, *more}
    tree = ast.parse(text)
    defined = [each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    assert len(set(defined)) == len(defined)  # no module of it hides what another has
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [str(node.module)]
        else:
            continue
        assert {name.partition(".")[0] for name in names} <= allowed


def test_it_runs_where_our_package_is_not():
    task_id, body = packed_task("st\nf:def f(a, b):\n    return a + b\n", 1, 2)
    context, buffer = payload(task_id, body, CONTEXT)
    variables = context["task_executor"]["a"][0]
    program = (
        "import sys\n"
        f"variables = {variables!r}\n"
        f"first = eval({buffer!r}, dict(variables))\n"
        f"assert first[:20] == eval({buffer!r}, dict(variables))[:20]\n"
        "assert not any(name.startswith('globus_compute_endpoint') for name in sys.modules)\n"
        "sys.stdout.buffer.write(first)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, env={}, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert value_of(done.stdout) == 3


def test_a_traceback_shows_the_researchers_frames_only():
    source = "st\nf:def f(n):\n    return g(n)\n\ndef g(n):\n    return 1 / n\n"
    task_id, body = packed_task(source, 0)
    text = read_result(worker.execute(task_id, body, CONTEXT)).data
    assert "in f" in text
    assert "in g" in text
    assert "task.py" not in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")


def test_an_endless_traceback_is_shortened():
    task_id, body = packed_task("st\nf:def f():\n    raise ValueError('x' * 500000)\n")
    result = read_result(worker.execute(task_id, body, CONTEXT))
    assert len(result.data) < worker.TEXT_LIMIT + 100
    assert "characters left out" in result.data
    assert result.error_details is not None
    assert len(result.error_details.user_message) <= 1000


def test_a_result_which_is_too_much_for_brokers_as_a_message_is_an_error():
    context = CONTEXT | {"result_serializers": ["globus_compute_sdk.serialize.JSONData"]}
    for count, fits in ((2_000_000, True), (5_000_000, False)):
        task_id, body = packed_task(f"st\nf:def f():\n    return chr(34) * {count}\n")
        packed = worker.execute(task_id, body, context)
        assert len(packed) < worker.MESSAGE_LIMIT
        error = read_result(packed).error_details
        assert (error is None) == fits
        assert fits or (error and error.code == "MaxResultSizeExceeded")


def test_another_tasks_body_is_refused():
    _, body = packed_task("st\nf:def f():\n    pass\n")
    result = read_result(worker.execute(str(uuid4()), body, CONTEXT))
    assert result.error_details is not None
    assert result.error_details.code == "MalformedTask"


def test_results_tell_where_they_were_made():
    task_id, body = packed_task("st\nf:def f():\n    pass\n")
    result = read_result(worker.execute(task_id, body, CONTEXT))
    assert result.details is not None
    assert result.details["endpoint_id"] == CONTEXT["endpoint_id"]
    assert result.task_statuses is not None
    assert [each.state.value for each in result.task_statuses] == [
        "waiting-for-launch",
        "execution-start",
        "execution-end",
    ]


def test_threads_which_begin_at_once_mark_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    host = socket.gethostname()

    def slow() -> str:
        time.sleep(0.05)  # long enough for the other thread to come by
        return host

    monkeypatch.setattr(socket, "gethostname", slow)
    worker._marks_file.cache_clear()
    context = CONTEXT | {"marks": str(tmp_path)}
    ids = [str(uuid4()) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda each: worker.execute(each, b"", context), ids))
    worker._marks_file.cache_clear()
    assert len(list(tmp_path.iterdir())) == 1
    assert read_marks(tmp_path) == set(ids)


def test_what_no_message_takes_is_told_in_other_signs():
    task_id, body = packed_task("st\nf:def f():\n    open('/none/\\udcff')\n")
    result = read_result(worker.execute(task_id, body, CONTEXT))
    assert result.error_details is not None
    assert result.error_details.code == "RemoteExecutionError"
    assert "No such file or directory: '/none/\\udcff'" in result.data
    task_id, body = packed_task("st\nf:def f():\n    raise ValueError('\\udcff')\n")
    result = read_result(worker.execute(task_id, body, CONTEXT))
    assert result.error_details is not None
    assert result.error_details.user_message == "ValueError: \\udcff"


def test_a_worker_whose_directory_was_removed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    context = CONTEXT | {"directory": str(place)}
    here = (
        "st\nf:def f():\n    import os, shutil\n    here = os.getcwd()\n    {}\n    return here\n"
    )
    for then in ("shutil.rmtree(here)", "pass"):
        task_id, body = packed_task(here.format(then))
        assert value_of(worker.execute(task_id, body, context)) == str(place)


@pytest.mark.parametrize("seconds", ["inf", "1e30", "0", "-1", ""])
def test_what_is_longer_than_any_timer_is_no_limit(seconds: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GC_TASK_TIMEOUT", seconds)
    task_id, body = packed_task("st\nf:def f():\n    return 1\n")
    assert value_of(worker.execute(task_id, body, CONTEXT)) == 1
