# SPDX-License-Identifier: Apache-2.0
"""Calls which may never return."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["in_thread"]

Value = TypeVar("Value")


async def in_thread(function: Callable[[], Value], seconds: float) -> Value:
    """Call something that may block for ever in a thread which nobody has to wait for.

    Raises:
        TimeoutError: it takes longer; it goes on, unheeded.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Value] = loop.create_future()

    def settle(value: Any, error: Exception | None) -> None:
        if not outcome.done():
            if error is None:
                outcome.set_result(value)
            else:
                outcome.set_exception(error)

    def run() -> None:
        value, problem = None, None
        try:
            value = function()
        except Exception as error:  # noqa: BLE001  (raised again in the loop)
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(settle, value, problem)

    threading.Thread(target=run, daemon=True, name="engine call").start()
    return await asyncio.wait_for(outcome, seconds)
