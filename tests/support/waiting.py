# SPDX-License-Identifier: Apache-2.0
"""Waiting for what comes to pass in other processes, which tell nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

ValueT = TypeVar("ValueT")


def until(condition: Callable[[], ValueT], patience: float = 20.0) -> ValueT:
    """Wait until the condition holds; returns its value."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)
    return value
