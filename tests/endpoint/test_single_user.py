# SPDX-License-Identifier: Apache-2.0
"""``configure`` and ``start`` against the real web services, with the unmodified SDK."""

from __future__ import annotations

import signal
import time

import pytest

from endpoint.personal import Person

pytestmark = pytest.mark.timeout(150)

_RESEARCHER = """
import json, sys
from globus_compute_sdk import Client, Executor, ShellFunction

def add(a, b):
    return a + b

def where():
    import os
    return os.getpid()

def fail():
    raise ValueError("the moon is not made of cheese")

def need():
    import a_module_that_nobody_has

def error_of(future):
    try:
        future.result(60)
    except Exception as error:
        return [type(error).__name__, str(error)]

told = {}
with Executor(endpoint_id=sys.argv[1]) as executor:
    futures = [executor.submit(add, n, n) for n in range(20)]
    shell = executor.submit(ShellFunction("echo hello {who}"), who="world")
    failing, lacking = executor.submit(fail), executor.submit(need)
    places = [executor.submit(where) for _ in range(10)]
    told["workers"] = len({each.result(90) for each in places})
    told["sums"] = [each.result(90) for each in futures]
    told["shell"] = shell.result(60).stdout
    told["error"], told["lack"] = error_of(failing), error_of(lacking)
client = Client()
source = "def double(x):\\n    return 2 * x\\n"
function = client.register_source_code(source, "double")
task = client.run(21, endpoint_id=sys.argv[1], function_id=function)
hardware = client.get_worker_hardware_details(sys.argv[1])
import time
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    done = client.get_batch_result([task, hardware])
    if not any(each["pending"] for each in done.values()):
        break
    time.sleep(0.5)
told["double"] = done[task]["result"]
told["hardware"] = done[hardware]["result"]
print(json.dumps(told))
"""


@pytest.mark.parametrize(
    "engine",
    [
        "{type: ThreadPoolEngine, max_workers: 2}",
        "{type: ProcessPoolEngine, max_workers: 2}",
        None,  # as configure writes it: GlobusComputeEngine
    ],
    ids=["threads", "processes", "htex"],
)
def test_a_round_trip_with_the_sdk(site: Person, engine: str | None):
    configured = site.run("configure", "mine")
    assert configured.returncode == 0, configured.stderr
    assert "Configuration file:" in configured.stdout
    if engine is not None:
        config = f"engine: {engine}\nheartbeat_period: 2\n"
        (site.endpoints / "mine/config.yaml").write_text(config)
    process, endpoint_id = site.start("mine")
    try:
        told = site.research(_RESEARCHER, endpoint_id)
        assert told["sums"] == [2 * n for n in range(20)]
        assert told["shell"] == "hello world\n"
        assert told["error"][0] == "TaskExecutionFailed"
        assert "ValueError: the moon is not made of cheese" in told["error"][1]
        assert "No module named 'a_module_that_nobody_has'" in told["lack"][1]
        assert engine is not None or told["workers"] == 1
        assert told["double"] == 42
        assert "CPU core count" in told["hardware"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        again, same = site.start("mine")  # a PUT this time
        assert same == endpoint_id
        log = site.home / ".globus_compute" / "mine" / "endpoint.log"
        deadline = time.monotonic() + 30
        while log.read_text().count("Taking tasks from") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        again.send_signal(signal.SIGINT)
        assert again.wait(30) == 0
    finally:
        process.kill()


def test_starts_which_are_refused(site: Person):
    missing = site.run("start", "nowhere")
    assert (missing.returncode, "there is no endpoint nowhere" in missing.stderr) == (78, True)
    site.configure("mine", "display_name: null\nengine: {type: ThreadPoolEngine, max_worker: 2}\n")
    wrong = site.run("start", "mine")
    assert wrong.returncode == 78
    assert "config.yaml" in wrong.stderr and "max_worker" in wrong.stderr
    assert "line 2" in wrong.stderr
    (site.endpoints / "mine/config.yaml").write_text("engine: {type: ThreadPoolEngine}\n")
    site.client = {**site.client, "client_secret": "wrong"}
    refused = site.run("start", "mine")
    assert refused.returncode == 77, refused.stderr
    assert "Traceback" not in refused.stderr
