# SPDX-License-Identifier: Apache-2.0
"""Tasks as the services would send them, and results as the SDK would read them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from globus_compute_common.messagepack import pack, unpack
from globus_compute_common.messagepack.message_types import Result, Task
from globus_compute_sdk.serialize import ComputeSerializer, PureSourceTextInspect

_serializer = ComputeSerializer()


def packed_task(
    function: Callable[..., Any] | str, *args: Any, task_id: UUID | None = None, **kwargs: Any
) -> tuple[str, bytes]:
    """Return a task id and its packed message; a ``str`` is source, as registered by hand."""
    chosen = task_id or uuid4()
    if isinstance(function, str):
        code = function
    elif inspect.isfunction(function):  # by value: the endpoint cannot import our tests
        code = PureSourceTextInspect().serialize(function)
    else:
        code = _serializer.serialize(function)
    parts = [code, _serializer.serialize(args), _serializer.serialize(kwargs)]
    buffer = _serializer.pack_buffers(parts)
    return str(chosen), pack(Task(task_id=chosen, task_buffer=buffer))


def read_result(packed: bytes) -> Result:
    """Unpack a result."""
    result = unpack(packed)
    assert isinstance(result, Result)
    return result


def value_of(packed: bytes) -> Any:
    """Return what the function returned; fail with the remote text where it raised."""
    result = read_result(packed)
    assert result.error_details is None, result.data
    return _serializer.deserialize(result.data)
