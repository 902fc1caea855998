# SPDX-License-Identifier: Apache-2.0
"""A broker which refuses the credentials of a running endpoint, against the real web services."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint.conftest import rabbitmqctl
from endpoint.personal import Person

pytestmark = pytest.mark.timeout(150)

_THREADS = "engine: {type: ThreadPoolEngine, max_workers: 4}\nheartbeat_period: 1\n"
_TASKS = 3

# Each task notes that it has run, and ends when it is told to.
_NOTED = f"""
import json, sys
from globus_compute_sdk import Executor

def noted(number, directory):
    import pathlib, time
    directory = pathlib.Path(directory)
    with (directory / "ran").open("a") as ran:
        ran.write(f"{{number}}\\n")
    deadline = time.monotonic() + 60
    while not (directory / "go on").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return number

with Executor(endpoint_id=sys.argv[1]) as executor:
    futures = [executor.submit(noted, number, sys.argv[2]) for number in range({_TASKS})]
    print(json.dumps([future.result(100) for future in futures]))
"""

_DELETE = """
import sys
from globus_compute_sdk import Client

Client().delete_endpoint(sys.argv[1])
"""


class Research:
    """Tasks which run until the test lets them end."""

    def __init__(self, site: Person, endpoint_id: str, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        script = directory / "research.py"
        script.write_text(_NOTED)
        self.process = subprocess.Popen(
            [sys.executable, str(script), endpoint_id, str(directory)],
            env=site.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def ran(self) -> list[str]:
        path = self._directory / "ran"
        return path.read_text().split() if path.exists() else []

    def results(self) -> Any:
        (self._directory / "go on").touch()
        said, _ = self.process.communicate(timeout=100)
        return json.loads(said)

    def close(self) -> None:
        (self._directory / "go on").touch()
        self.process.kill()
        self.process.wait(20)


@pytest.fixture
def research(tmp_path: Path) -> Iterator[Callable[[Person, str], Research]]:
    made: list[Research] = []

    def begin(site: Person, endpoint_id: str) -> Research:
        made.append(Research(site, endpoint_id, tmp_path / f"research{len(made)}"))
        wait_for(lambda: len(made[-1].ran) == _TASKS, 60)
        return made[-1]

    yield begin
    for each in made:
        each.close()


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def started(site: Person) -> str:
    return site.told("start", "mine").split()[-1]


def delete_account(endpoint_id: str) -> None:
    """As if RabbitMQ had been set up anew: its services' virtual host is another one."""
    rabbitmqctl("delete_user", f"ep.{endpoint_id}")


def log_of(site: Person, name: str = "mine") -> str:
    return (site.endpoints / name / "endpoint.log").read_text()


def test_a_single_users_endpoint_registers_anew(
    site: Person, research: Callable[[Person, str], Research]
):
    site.configure("mine", _THREADS)
    endpoint_id = started(site)
    running = research(site, endpoint_id)
    delete_account(endpoint_id)
    wait_for(lambda: log_of(site).count("Taking tasks from") == 2)
    assert running.results() == list(range(_TASKS))
    assert sorted(running.ran) == ["0", "1", "2"]
    assert log_of(site).count("Registering anew") == 1
    assert site.status("mine") == "Running"


@pytest.mark.long
def test_of_two_instances_the_one_which_registered_last_goes_on(
    site: Person, client: dict[str, str], tmp_path: Path
):
    site.configure("mine", _THREADS)
    endpoint_id = started(site)
    (tmp_path / "copy").mkdir()
    copy = Person(tmp_path / "copy", client)
    copy.configure("mine", _THREADS)
    registered = (site.endpoints / "mine" / "endpoint.json").read_text()
    (copy.endpoints / "mine" / "endpoint.json").write_text(registered)
    try:
        assert started(copy) == endpoint_id
        wait_for(lambda: site.status("mine") == "Disconnected")
        assert "already running" in log_of(site)
        assert "Registering anew" not in log_of(copy)
        # What is gone for good is not waited for.
        copy.research(_DELETE + "print(0)", endpoint_id)
        wait_for(lambda: copy.status("mine") == "Disconnected")
        assert "There is no endpoint" in log_of(copy)
    finally:
        copy.stop_all()


def test_a_user_endpoint_is_sent_fresh_ones(
    site: Person, research: Callable[[Person, str], Research]
):
    # Root's own manager, and not one of the system's.
    here = ("--config-dir", str(site.endpoints))
    site.told(*here, "configure", "--multi-user", "mine")
    manager = site.endpoints / "mine"
    (manager / "config.yaml").write_text("heartbeat_period: 2\n")
    (manager / "user_config_template.yaml.j2").write_text(_THREADS)
    running = research(site, site.told(*here, "start", "mine").split()[-1])
    (directory,) = site.endpoints.glob("uep.*")
    delete_account(directory.name.rpartition(".")[2])
    wait_for(lambda: "The broker refuses our credentials" in log_of(site, directory.name))
    assert running.results() == list(range(_TASKS))
    assert sorted(running.ran) == ["0", "1", "2"]
