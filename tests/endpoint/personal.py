# SPDX-License-Identifier: Apache-2.0
"""The web services in this host, and a person who runs endpoints of their own with them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[2]
SERVICES = "http://localhost:5000"


@dataclass
class Person:
    """The services, and one person's credentials for them; and their account, if not root's."""

    home: Path
    client: dict[str, str]
    account: str | None = None

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

    @property
    def identity(self) -> dict[str, Any]:
        """As whom processes run, for subprocess."""
        if self.account is None:
            return {}
        return {"user": self.account, "group": self.account, "extra_groups": []}

    @property
    def endpoints(self) -> Path:
        """Where the endpoints are."""
        return self.home / ".globus_compute"

    def run(
        self,
        *arguments: str,
        timeout: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the endpoint's."""
        command = [sys.executable, "-m", "globus_compute_endpoint", *arguments]
        return subprocess.run(
            command,
            env=self.environment | dict(environment or {}),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **self.identity,
        )

    def told(self, *arguments: str, **environment: str) -> str:
        """What a command prints, which must go well."""
        done = self.run(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def configure(self, name: str, config: str | None = None) -> None:
        """Make an endpoint; with ``config`` instead of the default one."""
        self.told("configure", name)
        if config is not None:
            (self.endpoints / name / "config.yaml").write_text(config)

    def status(self, name: str) -> str:
        """What ``list`` says of an endpoint."""
        rows = json.loads(self.told("list", "--json"))
        return next(str(row["status"]) for row in rows if row["name"] == name)

    def research(self, program: str, endpoint_id: str, timeout: float = 120) -> Any:
        """Run a program of a researcher, which prints JSON, with the stock SDK."""
        script = self.home / "research.py"  # some serializers look for the source
        script.write_text(program)
        done = subprocess.run(
            [sys.executable, str(script), endpoint_id],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **self.identity,
        )
        assert done.returncode == 0, done.stderr
        assert "Environment differences" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def stop_all(self) -> None:
        """Leave nothing running."""
        for config in self.endpoints.glob("*/config.yaml"):
            self.run("stop", "--take-over", config.parent.name, timeout=120)

    def start(self, name: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "globus_compute_endpoint", "start", "--attach", name]
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.home,
            **self.identity,
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


@contextlib.contextmanager
def running_services() -> Iterator[None]:
    """Web services, made ready and serving for as long as the context lasts."""
    services("init")
    # init deleted RabbitMQ's well-known account, with which other modules here look into queues.
    # In a host which is used again it may be there.
    for words in ("add_user guest guest", "set_permissions guest .* .* .*"):
        subprocess.run(["rabbitmqctl", "-q", *words.split()], check=False, timeout=60)
    serving = subprocess.Popen(
        [sys.executable, "-m", "globus_compute_services", "serve"],
        env={**os.environ, "PYTHONPATH": str(TREE / "src")},
    )
    try:
        deadline = time.monotonic() + 30
        while not answers():
            assert time.monotonic() < deadline, "the services do not answer"
            assert serving.poll() is None
            time.sleep(0.2)
        yield
    finally:
        serving.terminate()
        serving.wait(20)


def create_client(name: str, username: str, linked_to: str | None = None) -> dict[str, str]:
    """A client identity of the services; it may be linked to the identity of another username."""
    unique = f"{name}-{time.time_ns()}"
    linked = ["--linked-to", linked_to] if linked_to else []
    made = services("client", "create", unique, "--username", username, "--json", *linked)
    document: dict[str, str] = json.loads(made)
    return document
