# SPDX-License-Identifier: Apache-2.0
"""The unmodified SDK, in processes of its own, against the services and an echo endpoint."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from services.harness import Researcher, echoing

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="module")
def endpoint(alice: Researcher) -> Iterator[dict[str, Any]]:
    registration = alice.register()
    with echoing(registration):
        yield registration


EXECUTOR = """
import json, sys
from globus_compute_sdk import Executor

def add(a, b):
    return a + b

def fail():
    raise ValueError("boom")

with Executor(sys.argv[1]) as executor:
    sums = [future.result(30) for future in [executor.submit(add, n, 1) for n in range(300)]]
    error = executor.submit(fail).exception(30)
    print(json.dumps({"sums": sums, "error": str(error), "group": str(executor.task_group_id)}))
"""

RELOAD = """
import json, sys
from globus_compute_sdk import Executor

with Executor(sys.argv[1]) as executor:
    futures = list(executor.reload_tasks(sys.argv[2]))
    results = [future.result(30) for future in futures if future.exception(30) is None]
    print(json.dumps({"results": sorted(results), "count": len(futures)}))
"""


def test_executor_and_reload_from_another_process(
    alice: Researcher, endpoint: dict[str, Any]
) -> None:
    ran = alice.sdk(EXECUTOR, endpoint["endpoint_id"])
    assert ran["sums"] == [number + 1 for number in range(300)]
    assert "boom" in ran["error"]
    reloaded = alice.sdk(RELOAD, endpoint["endpoint_id"], ran["group"])
    assert reloaded == {"results": ran["sums"], "count": 301}


RELOAD_UNFINISHED = """
import json, sys
from globus_compute_sdk import Client, Executor

def double(x):
    return 2 * x

client = Client()
batch = client.create_batch()
function = client.register_function(double)
for number in range(5):
    batch.add(function, (number,))
group = client.batch_run(sys.argv[1], batch)["task_group_id"]
with Executor(sys.argv[1]) as executor:
    futures = list(executor.reload_tasks(group))
    print("reloaded", file=sys.stderr, flush=True)
    print(json.dumps(sorted(future.result(30) for future in futures)))
"""


def test_reload_of_tasks_submitted_without_a_queue(alice: Researcher) -> None:
    registration = alice.register()
    ran: list[Any] = []
    thread = threading.Thread(
        target=lambda: ran.append(alice.sdk(RELOAD_UNFINISHED, registration["endpoint_id"]))
    )
    thread.start()
    thread.join(4)
    with echoing(registration):
        thread.join(60)
    assert ran == [[0, 2, 4, 6, 8]]


CLIENT = """
import json, sys, time
from globus_compute_sdk import Client

client = Client()
endpoint = sys.argv[1]

def wait(task):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = client.get_batch_result([task])[task]
        if not status["pending"]:
            return client.get_result(task)
        time.sleep(0.1)

def triple(x):
    "Three times x."
    return 3 * x

function = client.register_function(triple, public=True)
source = client.register_source_code("def hello(name):\\n    return 'hello ' + name\\n", "hello")
answers = {
    "run": wait(client.run(5, endpoint_id=endpoint, function_id=function)),
    "source": wait(client.run("world", endpoint_id=endpoint, function_id=source)),
    "hardware": wait(client.get_worker_hardware_details(endpoint)),
    "function": client.get_function(function),
    "allowed": client.get_allowed_functions(endpoint),
    "status": client.get_endpoint_status(endpoint),
    "metadata": client.get_endpoint_metadata(endpoint),
    "endpoints": client.get_endpoints(),
    "any": client.get_endpoints(role="any"),
}
client.delete_function(function)
try:
    client.run(5, endpoint_id=endpoint, function_id=function)
except Exception as error:
    answers["deleted"] = [error.http_status, error.message]
print(json.dumps(answers, default=lambda answer: answer.data))
"""


def test_client(alice: Researcher, endpoint: dict[str, Any]) -> None:
    answers = alice.sdk(CLIENT, endpoint["endpoint_id"])
    assert answers["run"] == 15
    assert answers["source"] == "hello world"
    assert "python_runtime" in answers["hardware"]
    assert answers["function"]["function_name"] == "triple"
    assert answers["function"]["description"] == "Three times x."
    assert answers["allowed"]["restricted"] is False
    assert answers["status"]["status"] == "online"
    assert answers["metadata"]["uuid"] == endpoint["endpoint_id"]
    assert endpoint["endpoint_id"] in [one["uuid"] for one in answers["endpoints"]]
    assert answers["deleted"][0] == 404
    assert "register it" in answers["deleted"][1]


LARGE = """
import json, sys
from globus_compute_sdk import Executor

def size(data):
    return len(data)

with Executor(sys.argv[1]) as executor:
    fits = executor.submit(size, "x" * (7 * 2**20)).result(30)
    try:
        executor.submit(size, "x" * (11 * 2**20)).result(30)
    except Exception as error:
        print(json.dumps([fits, str(error)]))
"""


def test_payloads_up_to_the_limit(alice: Researcher, endpoint: dict[str, Any]) -> None:
    fits, refusal = alice.sdk(LARGE, endpoint["endpoint_id"])
    assert fits == 7 * 2**20
    assert "the limit is 10485760 bytes (10 MiB)" in refusal
