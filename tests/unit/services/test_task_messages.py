# SPDX-License-Identifier: Apache-2.0
"""Task messages are what the SDK's own serializer unpacks."""

from typing import Any
from uuid import uuid4

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Result, Task
from globus_compute_sdk.serialize import ComputeSerializer

from globus_compute_services.store.schema import Function
from globus_compute_services.store.tasks import error_body, task_body

SERIALIZER = ComputeSerializer()


def unpacked(function: Function) -> list[Any]:
    arguments = SERIALIZER.pack_buffers([SERIALIZER.serialize((2, "ä")), SERIALIZER.serialize({})])
    message = messagepack.unpack(task_body(uuid4(), function, arguments))
    assert isinstance(message, Task)
    return SERIALIZER.unpack_and_deserialize(message.task_buffer)


def test_a_serialized_function() -> None:
    code = SERIALIZER.pack_buffers([SERIALIZER.serialize(lambda number, text: text * number)])
    function, args, kwargs = unpacked(Function(name="f", code=code, serialized=True))
    assert function(*args, **kwargs) == "ää"


def test_plain_source() -> None:
    code = "def again(number, text):\n    return text * number  # ä\n"
    function, args, kwargs = unpacked(Function(name="again", code=code, serialized=False))
    assert function(*args, **kwargs) == "ää"


def test_a_failure_is_a_result_with_error_details() -> None:
    task = uuid4()
    result = messagepack.unpack(error_body(task, "no such user"))
    assert isinstance(result, Result)
    assert (result.task_id, result.is_error, result.data) == (task, True, "no such user")
