# SPDX-License-Identifier: Apache-2.0
"""The services as a process, researchers with the real SDK, endpoints at AMQP level."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pika
import yaml
from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport, Result, Task
from globus_compute_sdk.serialize import ComputeSerializer

HERE = Path(__file__).resolve().parent
TREE = HERE.parent.parent
URL = "http://localhost:5000"
PATIENCE_S = 60
SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
SERIALIZER = ComputeSerializer()
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TREE / "src")}


class Services:
    """The services under test, with a configuration file and a database of their own."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.database_url = database_url
        self.process: subprocess.Popen[bytes] | None = None

    def cli(
        self, *arguments: str, check: bool = True, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments)
        done = subprocess.run(
            command,
            input=given,
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return done

    def initialize(self, like: Services | None = None, **other: Any) -> None:
        """``init``; ``like`` others which did so before, it finds RabbitMQ set up already."""
        if like is not None:
            settings = yaml.safe_load(like.config.read_text()) | other
            settings["database_url"] = self.database_url
            self.config.write_text(yaml.safe_dump(settings))
        self.cli("init", "--database-url", self.database_url)

    def start(self, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start, and wait until systemd would be told that they are ready."""
        path = self.directory / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self.log() as log:
            path.unlink(missing_ok=True)
            notified.bind(str(path))
            notified.settimeout(PATIENCE_S)
            self.process = subprocess.Popen(
                self.command("serve"),
                stdout=log,
                stderr=log,
                env={**_ENVIRONMENT, **environment, "NOTIFY_SOCKET": str(path)},
            )
            message = self._first_notification(notified)
        assert "READY=1" in message, message

    def _first_notification(self, notified: socket.socket) -> str:
        assert self.process is not None
        with os.fdopen(os.pidfd_open(self.process.pid)) as ended:
            descriptors = [notified.fileno(), ended.fileno()]
            ready, _, _ = select.select(descriptors, [], [], PATIENCE_S)
        assert notified.fileno() in ready, self.log_text()
        return notified.recv(4096).decode()

    def log(self) -> Any:
        return (self.directory / "services.log").open("ab")

    def log_text(self) -> str:
        return (self.directory / "services.log").read_text()

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self.process = None
        return status

    def researcher(self, name: str, username: str, linked_to: str | None = None) -> Researcher:
        linked = ["--linked-to", linked_to] if linked_to else []
        made = self.cli("client", "create", name, "--username", username, "--json", *linked)
        return Researcher(json.loads(made.stdout), self.directory / name)

    def command(self, *arguments: str) -> list[str]:
        program = [sys.executable, "-m", "globus_compute_services"]
        return [*program, "--config", str(self.config), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return dict(_ENVIRONMENT)


class Researcher:
    """Someone with a client identity: calls REST directly, or runs the SDK in a process."""

    def __init__(self, client: dict[str, str], home: Path) -> None:
        self.client = client
        self.home = home
        self.identity = client["identity_id"]
        self.http = httpx.Client(base_url=URL, timeout=PATIENCE_S)
        self._token: str | None = None

    @property
    def token(self) -> str:
        if self._token is None:
            answer = self.http.post(
                "/v2/oauth2/token",
                data={"grant_type": "client_credentials", "scope": SCOPE},
                auth=(self.client["client_id"], self.client["client_secret"]),
            )
            assert answer.status_code == 200, answer.text
            self._token = answer.json()["access_token"]
        return self._token

    def forget_token(self) -> None:
        self._token = None

    def call(self, method: str, path: str, json: Any = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.http.request(method, path, json=json, headers=headers, **options)

    def done(self, method: str, path: str, json: Any = None) -> Any:
        answer = self.call(method, path, json)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, status: int, method: str, path: str, json: Any = None) -> str:
        """A call that must be refused; returns the message which the SDK would show."""
        answer = self.call(method, path, json)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
        body = answer.json()
        assert set(body) >= {"code", "message", "reason", "http_status_code"}
        assert body["http_status_code"] == status
        return str(body["message"])

    def register(self, **asked: Any) -> dict[str, Any]:
        registration: dict[str, Any] = self.done(
            "POST",
            "/v3/endpoints",
            {"endpoint_name": "test", "metadata": {"hostname": "here"}, **asked},
        )
        return registration

    def register_function(self, source: str = "def f(*a): return a", **asked: Any) -> str:
        name = source.split("(", maxsplit=1)[0].removeprefix("def ").strip()
        document = {"function_name": name, "function_code": source, "serialized": False, **asked}
        return str(self.done("POST", "/v3/functions", document)["function_uuid"])

    def submit(
        self, endpoint: str, function: str, payloads: Sequence[str], **asked: Any
    ) -> dict[str, Any]:
        document = {"tasks": {function: list(payloads)}, "create_queue": True, **asked}
        answer: dict[str, Any] = self.done("POST", f"/v3/endpoints/{endpoint}/submit", document)
        return answer

    def environment(self) -> dict[str, str]:
        """What ``globus-compute-services env`` says, and the secret."""
        self.home.mkdir(exist_ok=True)
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{URL}/",
            "GLOBUS_COMPUTE_CLIENT_ID": self.client["client_id"],
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.client["client_secret"],
            "GLOBUS_COMPUTE_USER_DIR": str(self.home),
            "PYTHONWARNINGS": "ignore",
        }

    def sdk(self, script: str, *arguments: str, timeout: float = PATIENCE_S) -> Any:
        """Run a script with the SDK in a process of its own; returns the JSON that it prints."""
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class Broker:
    """A connection with the credentials of a queue info."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def publish(self, message: EPStatusReport | Result, queue_info: dict[str, Any]) -> None:
        kwargs = dict(queue_info["queue_publish_kwargs"])
        properties = pika.BasicProperties(**kwargs.pop("properties"))
        self.channel.basic_publish(body=messagepack.pack(message), properties=properties, **kwargs)

    def take(self, queue: str, count: int = 1, timeout: float = PATIENCE_S) -> list[Any]:
        """Consume ``count`` messages, without acknowledging; as (method, properties, body)."""
        messages: list[Any] = []
        generator = self.channel.consume(queue, inactivity_timeout=timeout)
        for method, properties, body in generator:
            assert method is not None, f"{len(messages)} of {count} messages within {timeout} s"
            messages.append((method, properties, body))
            if len(messages) == count:
                break
        return messages

    def nothing_in(self, queue: str, timeout: float = 1.0) -> bool:
        for method, _, _ in self.channel.consume(queue, inactivity_timeout=timeout):
            return method is None
        return True

    def close(self) -> None:
        with suppress(pika.exceptions.AMQPError):
            self.connection.close()


class Manager:
    """A manager at the AMQP level: takes commands, shows itself with heartbeats."""

    def __init__(self, owner: Researcher) -> None:
        self.owner = owner
        self.info = owner.register(multi_user=True)
        self.id = str(self.info["endpoint_id"])
        self.broker = Broker(self.info["command_queue_info"]["connection_url"])

    def show_itself(self, **state: Any) -> None:
        self.broker.publish(heartbeat(self.id, **state), self.info["heartbeat_queue_info"])

    def command(self) -> tuple[dict[str, Any], Any]:
        queue = self.info["command_queue_info"]["queue"]
        ((method, properties, body),) = self.broker.take(queue)
        self.broker.channel.basic_ack(method.delivery_tag)
        self.broker.channel.cancel()
        return json.loads(body), properties

    def no_command(self, timeout: float = 1.0) -> bool:
        nothing = self.broker.nothing_in(self.info["command_queue_info"]["queue"], timeout)
        self.broker.channel.cancel()
        return nothing


@contextmanager
def connected(url: str) -> Iterator[Broker]:
    broker = Broker(url)
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def echoing(registration: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """An endpoint which runs tasks at once, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "echo_endpoint.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(registration))
        process.stdin.close()
        assert process.stdout.readline() == "consuming\n"
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


def payload(*args: Any, **kwargs: Any) -> str:
    """The arguments of a task, as the SDK packs them."""
    parts = [SERIALIZER.serialize(args), SERIALIZER.serialize(kwargs)]
    return str(SERIALIZER.pack_buffers(parts))


def heartbeat(endpoint: str, **state: Any) -> EPStatusReport:
    return EPStatusReport(
        endpoint_id=uuid.UUID(endpoint),
        global_state={"heartbeat_period": 30, **state},
        task_statuses={},
    )


def result_for(body: bytes, value: Any = "done") -> Result:
    """A result for a packed task."""
    task = messagepack.unpack(body)
    assert isinstance(task, Task)
    return Result(task_id=task.task_id, data=SERIALIZER.serialize(value))


def parsed_result(body: bytes) -> Result:
    message = messagepack.unpack(body)
    assert isinstance(message, Result)
    return message


def value_in(body: bytes) -> Any:
    """What a packed result holds."""
    return SERIALIZER.deserialize(parsed_result(body).data)


def wait_for(condition: Callable[[], bool], pause: float = 0.02, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(pause)


def tasks_of(researcher: Researcher, group: str) -> set[str]:
    return {task["id"] for task in researcher.done("GET", f"/v2/taskgroup/{group}")["tasks"]}


def results_of(researcher: Researcher, group: str, count: int) -> dict[str, Any]:
    """The first ``count`` different results that come to the queue of a group."""
    answer = researcher.done("GET", "/v2/get_amqp_result_connection_url")
    found: dict[str, Any] = {}
    with connected(answer["connection_url"]) as broker:
        while len(found) < count:
            ((method, _, body),) = broker.take(f"{answer['queue_prefix']}{group}", 1, 30)
            task = json.loads(body[1:])["data"]["task_id"]
            found[task] = value_in(body)
            broker.channel.basic_ack(method.delivery_tag)
    return found
