# SPDX-License-Identifier: Apache-2.0
"""From a message to a task, or to the reason why it is none."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from globus_compute_common.messagepack import unpack
from globus_compute_common.messagepack.message_types import Task

from globus_compute_endpoint.amqp import Delivery
from globus_compute_endpoint.engines.base import TaskRequest

__all__ = ["NotATask", "read"]


@dataclass(frozen=True, slots=True)
class NotATask:
    """A message which cannot be run; ``task_id`` is None where not even that can be told."""

    task_id: str | None
    reason: str


def read(
    delivery: Delivery, allowed_functions: Collection[UUID] | None = None
) -> TaskRequest | NotATask:
    """Check a message's headers. Its body is left to the worker, which has to read it anyway.

    ``allowed_functions``, if any, are the only ones which may be run.
    """
    headers = delivery.properties.headers or {}
    task_id = _uuid(headers.get("task_uuid"))
    function_id = _uuid(headers.get("function_uuid"))
    if task_id is None or function_id is None:
        return NotATask(
            task_id or _id_in_body(delivery.body),
            "its headers lack the id of a task or of a function",
        )
    if allowed_functions is not None and UUID(function_id) not in allowed_functions:
        return NotATask(task_id, f"function {function_id} is not allowed on this endpoint")
    try:
        specification = _resource_specification(headers.get("resource_specification"))
        serializers = _serializers(headers.get("result_serializers"))
    except ValueError as error:
        return NotATask(task_id, str(error))
    return TaskRequest(task_id, delivery.body, time.time_ns(), specification, serializers)


def _uuid(value: object) -> str | None:
    try:
        return str(UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _resource_specification(value: object) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    parsed: Any = None
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(value) or {}
    if isinstance(parsed, dict) and not any(
        isinstance(each, dict | list) for each in parsed.values()
    ):
        return parsed
    raise ValueError(
        f"its resource_specification is no mapping of names to numbers or texts: {value!r:.200}"
    )


def _serializers(value: object) -> tuple[str, ...]:
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"its result_serializers are no list of import paths: {value!r:.200}")
    return tuple(value)


def _id_in_body(body: bytes) -> str | None:
    try:
        message = unpack(body)
    except Exception:  # noqa: BLE001  (any bytes may have come: they tell no id)
        return None
    return str(message.task_id) if isinstance(message, Task) else None
