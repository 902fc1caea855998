# SPDX-License-Identifier: Apache-2.0
"""These tests need the broker of a test host: run them with ``tests/endpoint/run``."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pika
import pytest
from pydantic import SecretStr

from endpoint.harness import AMQP_URL, Harness
from endpoint.personal import Person, create_client, running_services
from globus_compute_endpoint.amqp import QueueInfo, ResultQueueInfo
from globus_compute_endpoint.amqp.queue_info import PublishKwargs


def rabbitmqctl(*arguments: str) -> str:
    command = ["rabbitmqctl", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture
def queue() -> QueueInfo:
    name = f"test-{uuid4()}"
    with pika.BlockingConnection(pika.URLParameters(AMQP_URL)) as connection:
        connection.channel().queue_declare(name, durable=True)
    return QueueInfo(connection_url=SecretStr(AMQP_URL), queue=name)


@pytest.fixture
def destination(queue: QueueInfo) -> ResultQueueInfo:
    publish = PublishKwargs(
        exchange="", routing_key=queue.queue, mandatory=True, properties={"delivery_mode": 2}
    )
    return ResultQueueInfo(
        connection_url=queue.connection_url, queue=queue.queue, queue_publish_kwargs=publish
    )


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def services() -> Iterator[None]:
    with running_services():
        yield


@pytest.fixture(scope="session")
def client(services: None) -> dict[str, str]:
    return create_client("alice", "a@example.org")


@pytest.fixture
def site(client: dict[str, str], tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path, client)
    yield person
    person.stop_all()
