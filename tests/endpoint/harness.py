# SPDX-License-Identifier: Apache-2.0
"""A user endpoint in a process of its own, with queues as the services would make them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
from globus_compute_common.messagepack import unpack
from globus_compute_common.messagepack.message_types import EPStatusReport, Result

from support.tasks import packed_task

AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
_RUN = """
import logging, os, socket, sys
if sys.argv[2] == "journal":
    from globus_compute_endpoint.host.journal import log_to_journal
    log_to_journal("globus-compute-endpoint")
else:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from globus_compute_endpoint.user_endpoint.launch import launch
status = launch(sys.stdin.buffer.read(), socket.socket(fileno=int(sys.argv[1])))
logging.shutdown()
os._exit(status)
"""


class Harness:
    """Queues, a home directory, and at most one endpoint process at a time.

    ``wrapper`` is a command which runs the endpoint's.
    """

    def __init__(
        self,
        home: Path,
        *,
        journal: bool = False,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.wrapper = wrapper
        self.environment = environment or {}
        self.logs_to = "journal" if journal else "stderr"
        self.endpoint_id = str(uuid4())
        self.manager_id = str(uuid4())
        self.name = f"uep.{self.manager_id}.{self.endpoint_id}"
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.results: dict[str, Result] = {}
        self.raw_results: list[bytes] = []
        self.heartbeats: list[EPStatusReport] = []
        self.broker = pika.BlockingConnection(pika.URLParameters(AMQP_URL))
        self.channel = self.broker.channel()
        self.task_queue = f"{self.endpoint_id}.tasks"
        self.channel.queue_declare(self.task_queue, durable=True)
        for kind, on_message in (("results", self._on_result), ("heartbeats", self._on_beat)):
            self.channel.exchange_declare(kind, "topic", durable=True)
            queue = f"{self.endpoint_id}.test.{kind}"
            self.channel.queue_declare(queue, durable=True)
            self.channel.queue_bind(queue, kind, f"{self.endpoint_id}.{kind}")
            self.channel.basic_consume(queue, on_message, auto_ack=True)

    @property
    def directory(self) -> Path:
        return self.home / ".globus_compute" / self.name

    @property
    def log(self) -> str:
        path = self.directory / "endpoint.log"
        return path.read_text() if path.exists() else ""

    def credentials(self, url: str = AMQP_URL) -> dict[str, Any]:
        def destination(kind: str) -> dict[str, Any]:
            publish = {
                "exchange": kind,
                "routing_key": f"{self.endpoint_id}.{kind}",
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            }
            return {"connection_url": url, "exchange": kind, "queue_publish_kwargs": publish}

        task_queue = {"connection_url": url, "exchange": "tasks", "queue": self.task_queue}
        return {
            "endpoint_id": self.endpoint_id,
            "task_queue_info": task_queue,
            "result_queue_info": destination("results"),
            "heartbeat_queue_info": destination("heartbeats"),
        }

    def start(self, template: str, **more: Any) -> None:
        document = {
            "endpoint_id": self.endpoint_id,
            "name": self.name,
            "manager_id": self.manager_id,
            "amqp_creds": self.credentials(),
            "template": template,
            "schema": None,
            **more,
        }
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = Path(__file__).parents[2] / "src"
        environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(source),
            **self.environment,
        }
        self.process = subprocess.Popen(
            [*self.wrapper, sys.executable, "-c", _RUN, str(theirs.fileno()), self.logs_to],
            stdin=subprocess.PIPE,
            env=environment,
            cwd=self.home,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document).encode())
        self.process.stdin.close()

    def tell(self, frame: dict[str, Any]) -> None:
        assert self.control is not None
        self.control.send(json.dumps(frame).encode())

    def states(self) -> list[str]:
        """Return the states which the endpoint has told so far."""
        return [frame["state"] for frame in self.frames()]

    def frames(self) -> list[dict[str, Any]]:
        """Return what the endpoint has told its manager since the last call."""
        assert self.control is not None
        seen: list[dict[str, Any]] = []
        while True:
            try:
                frame = self.control.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return seen
            if not frame:
                return seen
            seen.append(json.loads(frame))

    def send(self, body: bytes, headers: dict[str, Any]) -> None:
        properties = pika.BasicProperties(headers=headers, delivery_mode=2)
        self.channel.basic_publish("", self.task_queue, body, properties)

    def submit(self, function: Any, *args: Any, headers: Any = None, **kwargs: Any) -> str:
        task_id, body = packed_task(function, *args, **kwargs)
        self.send(body, {"task_uuid": task_id, "function_uuid": str(uuid4()), **(headers or {})})
        return task_id

    def wait_for(self, condition: Any, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s")
            self.broker.process_data_events(0.02)

    def pause(self, seconds: float) -> None:
        """Do nothing for a while but take what comes."""
        with contextlib.suppress(AssertionError):
            self.wait_for(lambda: False, seconds)

    def result(self, task_id: str, seconds: float = 30) -> Result:
        self.wait_for(lambda: task_id in self.results, seconds)
        return self.results[task_id]

    def exit_status(self, seconds: float = 30) -> int:
        assert self.process is not None
        process = self.process
        self.wait_for(lambda: process.poll() is not None, seconds)
        assert process.returncode is not None
        self.broker.process_data_events(0.2)
        return process.returncode

    def queued(self) -> int:
        return int(self.channel.queue_declare(self.task_queue, passive=True).method.message_count)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.control is not None:
            self.control.close()
        if self.broker.is_open:
            self.channel.queue_delete(self.task_queue)
            for kind in ("results", "heartbeats"):
                self.channel.queue_delete(f"{self.endpoint_id}.test.{kind}")
            self.broker.close()

    def _on_result(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        result = unpack(body)
        assert isinstance(result, Result)
        self.raw_results.append(body)
        self.results[str(result.task_id)] = result

    def _on_beat(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        report = unpack(body)
        assert isinstance(report, EPStatusReport)
        self.heartbeats.append(report)
