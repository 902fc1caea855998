# SPDX-License-Identifier: Apache-2.0
"""What is a task, and what is none."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from pika import BasicProperties

from globus_compute_endpoint.amqp import Delivery
from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.intake import NotATask, read
from support.tasks import packed_task

TASK, FUNCTION = str(uuid4()), str(uuid4())


def delivery(headers: dict[str, Any] | None, body: bytes = b"") -> Delivery:
    channel: Any = None  # nothing is acknowledged here
    return Delivery(body, BasicProperties(headers=headers), False, channel, 1)


def test_headers_are_read():
    specification = {"num_nodes": 2}
    task = read(
        delivery(
            {
                "task_uuid": TASK.upper(),
                "function_uuid": FUNCTION,
                "resource_specification": json.dumps(specification),
                "result_serializers": ["a.B"],
            },
            b"body",
        )
    )
    assert isinstance(task, TaskRequest)
    assert (task.task_id, task.body) == (TASK, b"body")
    assert task.resource_specification == specification
    assert task.result_serializers == ("a.B",)


@pytest.mark.parametrize("nothing", [None, "", "null", "{}"])
def test_no_resources_are_asked_for(nothing: str | None):
    headers = {"task_uuid": TASK, "function_uuid": FUNCTION, "resource_specification": nothing}
    task = read(delivery(headers))
    assert isinstance(task, TaskRequest)
    assert task.resource_specification == {}


@pytest.mark.parametrize(
    ("headers", "body", "task_id"),
    [
        (None, b"", None),
        ({}, b"\x01{}", None),
        ({"task_uuid": "x", "function_uuid": FUNCTION}, b"\xff", None),
        ({"task_uuid": 7}, b"", None),
        ({"task_uuid": TASK}, b"", TASK),
        ({"function_uuid": FUNCTION}, packed_task(abs, task_id=UUID(TASK))[1], TASK),
    ],
)
def test_without_ids_it_is_none_but_may_be_answered(
    headers: dict[str, Any] | None, body: bytes, task_id: str | None
):
    message = read(delivery(headers, body))
    assert isinstance(message, NotATask)
    assert message.task_id == task_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"resource_specification": "[1]"},
        {"resource_specification": "{"},
        {"resource_specification": 5},
        {"resource_specification": '{"num_nodes": [1]}'},
        {"resource_specification": "[" * 100_000},
        {"result_serializers": "a.B"},
        {"result_serializers": [1]},
    ],
)
def test_wrong_headers_are_named(wrong: dict[str, Any]):
    message = read(delivery({"task_uuid": TASK, "function_uuid": FUNCTION, **wrong}))
    assert isinstance(message, NotATask)
    assert message.task_id == TASK
    assert next(iter(wrong)) in message.reason


def test_only_allowed_functions():
    headers = {"task_uuid": TASK, "function_uuid": FUNCTION}
    assert isinstance(read(delivery(headers), {UUID(FUNCTION)}), TaskRequest)
    refused = read(delivery(headers), {uuid4()})
    assert isinstance(refused, NotATask)
    assert "not allowed" in refused.reason
