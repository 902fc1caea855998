# SPDX-License-Identifier: Apache-2.0
"""What columns of the journal hold as JSON; read as what it is: something from a disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from globus_compute_endpoint.engines.base import TaskRequest

__all__ = [
    "damage",
    "packed_history",
    "packed_request",
    "task_of",
    "unpacked_history",
    "unpacked_request",
]


def unpacked_history(text: str | None) -> tuple[str, ...]:
    """Return the reasons of earlier losses; raises DatabaseError where they are damaged."""
    try:
        history = json.loads(text) if text else []
        if isinstance(history, list) and all(isinstance(each, str) for each in history):
            return tuple(history)
    except (ValueError, TypeError):
        pass
    raise damage("the history of a task cannot be read")


def unpacked_request(text: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a task was sent with; raises DatabaseError where that is damaged."""
    try:
        specification, serializers = json.loads(text) if text else ({}, ())
        if isinstance(specification, dict) and all(isinstance(each, str) for each in serializers):
            return specification, tuple(serializers)
    except (ValueError, TypeError):
        pass
    raise damage("what a task was sent with cannot be read")


def damage(text: str) -> sqlite3.DatabaseError:
    """Return what SQLite itself raises where it stumbles over damage."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def packed_history(value: Sequence[str]) -> str | None:
    return json.dumps(list(value)) if value else None


def packed_request(task: TaskRequest) -> str | None:
    if not task.resource_specification and not task.result_serializers:
        return None
    return json.dumps([task.resource_specification, task.result_serializers])


def task_of(
    task_id: str, body: bytes, received: int, request: str | None, history: str | None
) -> TaskRequest:
    specification, serializers = unpacked_request(request)
    past = unpacked_history(history)
    return TaskRequest(task_id, body, received, specification, serializers, past)
