# SPDX-License-Identifier: Apache-2.0
"""``configure`` and ``start`` against the real web services, with the unmodified SDK."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(150)

TREE = Path(__file__).parents[2]
SERVICES = "http://localhost:5000"

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

told = {}
with Executor(endpoint_id=sys.argv[1]) as executor:
    futures = [executor.submit(add, n, n) for n in range(20)]
    shell = executor.submit(ShellFunction("echo hello {who}"), who="world")
    failing = executor.submit(fail)
    told["sums"] = [each.result(90) for each in futures]
    told["shell"] = shell.result(60).stdout
    try:
        failing.result(60)
    except Exception as error:
        told["error"] = [type(error).__name__, str(error)]
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


@dataclass
class Site:
    """The services, and one person's credentials for them."""

    home: Path
    client: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(TREE / "src"),
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{SERVICES}/",
            "GLOBUS_COMPUTE_CLIENT_ID": self.client["client_id"],
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.client["client_secret"],
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "globus_compute_endpoint", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start(self, name: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "globus_compute_endpoint", "start", "--attach", name]
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, cwd=self.home
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Starting endpoint; registered ID: "), line
        return process, line.rsplit(" ", 1)[1].strip()


def services(*arguments: str) -> str:
    command = [sys.executable, "-m", "globus_compute_services", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(TREE / "src")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers() -> bool:
    try:
        urllib.request.urlopen(f"{SERVICES}/v2/version", timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def client() -> Iterator[dict[str, str]]:
    services("init")
    # init deleted RabbitMQ's well-known account, with which other modules here look into queues.
    for words in ("add_user guest guest", "set_permissions guest .* .* .*"):
        subprocess.run(["rabbitmqctl", "-q", *words.split()], check=True, timeout=60)
    serving = subprocess.Popen(
        [sys.executable, "-m", "globus_compute_services", "serve"],
        env={**os.environ, "PYTHONPATH": str(TREE / "src")},
    )
    deadline = time.monotonic() + 30
    while not answers():
        assert time.monotonic() < deadline, "the services do not answer"
        assert serving.poll() is None
        time.sleep(0.2)
    name = f"alice-{time.time_ns()}"
    yield json.loads(services("client", "create", name, "--username", "a@example.org", "--json"))
    serving.terminate()
    serving.wait(20)


@pytest.fixture
def site(client: dict[str, str], tmp_path: Path) -> Site:
    return Site(tmp_path, client)


def write_engine(site: Site, name: str, engine: str) -> None:
    path = site.home / ".globus_compute" / name / "config.yaml"
    path.write_text(f"display_name: null\nengine: {engine}\nheartbeat_period: 2\n")


@pytest.mark.parametrize(
    "engine",
    [
        "{type: ThreadPoolEngine, max_workers: 2}",
        "{type: ProcessPoolEngine, max_workers: 2}",
        None,  # as configure writes it: GlobusComputeEngine
    ],
    ids=["threads", "processes", "htex"],
)
def test_a_round_trip_with_the_sdk(site: Site, engine: str | None):
    configured = site.run("configure", "mine")
    assert configured.returncode == 0, configured.stderr
    assert "Configuration file:" in configured.stdout
    if engine is not None:
        write_engine(site, "mine", engine)
    process, endpoint_id = site.start("mine")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RESEARCHER, endpoint_id],
            env=site.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert told["sums"] == [2 * n for n in range(20)]
        assert told["shell"] == "hello world\n"
        assert told["error"][0] == "TaskExecutionFailed"
        assert "ValueError: the moon is not made of cheese" in told["error"][1]
        assert told["double"] == 42
        assert "CPU core count" in told["hardware"]
        assert "Environment differences" not in done.stderr
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


def test_starts_which_are_refused(site: Site):
    missing = site.run("start", "nowhere")
    assert (missing.returncode, "there is no endpoint nowhere" in missing.stderr) == (78, True)
    site.run("configure", "mine")
    write_engine(site, "mine", "{type: ThreadPoolEngine, max_worker: 2}")
    wrong = site.run("start", "mine")
    assert wrong.returncode == 78
    assert "config.yaml" in wrong.stderr and "max_worker" in wrong.stderr
    assert "line 2" in wrong.stderr
    write_engine(site, "mine", "{type: ThreadPoolEngine}")
    site.client = {**site.client, "client_secret": "wrong"}
    refused = site.run("start", "mine")
    assert refused.returncode == 77, refused.stderr
    assert "Traceback" not in refused.stderr
