# SPDX-License-Identifier: Apache-2.0
import json
import time
from uuid import UUID

import pytest
from pika.spec import BasicProperties

from globus_compute_endpoint.amqp.consumer import Delivery
from globus_compute_endpoint.gateway.commands import Refused, StartCommand, parse_command

URL = "amqp://user:secret@localhost:5672/vhost"
QUEUE = {"connection_url": URL, "queue": "q", "exchange": "e"}
PUBLISH = QUEUE | {"queue_publish_kwargs": {"exchange": "e", "routing_key": "k"}}
ENDPOINT = str(UUID(int=5))


def command(**kwargs):
    arguments = {
        "name": "uep.a.b",
        "user_opts": {"engine": "x"},
        "user_runtime": {},
        "amqp_creds": {
            "endpoint_id": ENDPOINT,
            "task_queue_info": QUEUE,
            "result_queue_info": PUBLISH,
            "heartbeat_queue_info": PUBLISH,
        },
    }
    return {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": arguments | kwargs,
        "globus_effective_identity": str(UUID(int=1)),
        "globus_username": "alice@example.org",
        "globus_identity_set": [{"id": str(UUID(int=1)), "username": "alice@example.org"}],
    }


def deliver(body, age=0.0, timestamp=True):
    properties = BasicProperties(timestamp=int(time.time() - age) if timestamp else None)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery(data, properties, False, None, 1)


def test_a_command_becomes_a_frame_and_an_unread_blob():
    parsed = parse_command(deliver(command()))
    assert isinstance(parsed, StartCommand)
    assert parsed.endpoint_id == UUID(ENDPOINT)
    assert parsed.identities[0].username == "alice@example.org"
    assert json.loads(parsed.blob)["user_opts"] == {"engine": "x"}


@pytest.mark.parametrize("age", [181, -181, 10_000])
def test_a_stale_command_is_dropped_and_fails_nobody(age):
    parsed = parse_command(deliver(command(), age=age))
    assert isinstance(parsed, Refused)
    assert parsed.credentials is None


def test_a_command_without_a_timestamp_is_dropped():
    assert isinstance(parse_command(deliver(command(), timestamp=False)), Refused)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"[]", b"3", b'{"kwargs": 3}'])
def test_garbage_is_refused(body):
    parsed = parse_command(deliver(body))
    assert isinstance(parsed, Refused)
    assert parsed.credentials is None


@pytest.mark.parametrize("missing", ["globus_identity_set", "globus_effective_identity", "command"])
def test_a_malformed_command_is_told_to_its_user_where_that_can_be(missing):
    body = command()
    del body[missing]
    parsed = parse_command(deliver(body))
    assert isinstance(parsed, Refused)
    assert parsed.credentials is not None
    assert missing in str(parsed.problem)
    assert "secret" not in str(parsed.problem)


def test_options_larger_than_a_frame_are_refused_with_the_limit():
    parsed = parse_command(deliver(command(user_opts={"x": "y" * 200_000})))
    assert isinstance(parsed, Refused)
    assert parsed.problem.code == "OPTIONS_TOO_LARGE"
    assert parsed.credentials is not None
