# SPDX-License-Identifier: Apache-2.0
"""Calling what may block for as long as a file server is away, without waiting that long.

Not threads of an executor: Python waits for those at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["LastAnswer", "in_thread", "within"]

Value = TypeVar("Value")


class _Call(Generic[Value]):
    """A call in a thread which nobody has to wait for. ``done`` is called in that thread."""

    def __init__(self, function: Callable[[], Value], done: Callable[[], None], name: str) -> None:
        self._function = function
        self._done = done
        self._value: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True, name=name).start()

    def outcome(self) -> Value:
        """Return, or raise, what the function did. Only once it is done."""
        if self._error is not None:
            raise self._error
        value: Value = self._value
        return value

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001  (raised again where it was called)
            self._error = error
        self._done()


def within(
    seconds: float,
    function: Callable[[], Value],
    *,
    slow: float | None = None,
    on_slow: Callable[[], None] = lambda: None,
) -> Value:
    """Call ``function`` in a thread, and return or raise what it does.

    ``on_slow`` is called if it takes longer than ``slow`` seconds.

    Raises:
        TimeoutError: it takes longer than ``seconds``; it goes on, unheeded.
    """
    done = threading.Event()
    call = _Call(function, done.set, "may block")
    if slow is not None and not done.wait(slow):
        on_slow()
    if not done.wait(seconds - (slow or 0.0)):
        raise TimeoutError
    return call.outcome()


async def in_thread(function: Callable[[], Value], seconds: float) -> Value:
    """As :func:`within`, for the event loop, which goes on meanwhile."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def finished() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(done.set)

    call = _Call(function, finished, "may block")
    await asyncio.wait_for(done.wait(), seconds)
    return call.outcome()


class LastAnswer(Generic[Value]):
    """What ``function`` answered last, ``first`` before that; asked again at each call.

    A call waits for ``seconds`` at most. While an answer is due, no other is asked for.
    """

    def __init__(self, function: Callable[[], Value], first: Value, seconds: float = 0.05) -> None:
        self._function = function
        self._answer = first
        self._seconds = seconds
        self._asked: threading.Thread | None = None

    def __call__(self) -> Value:
        if self._asked is None or not self._asked.is_alive():
            self._asked = threading.Thread(target=self._ask, daemon=True, name="may block")
            self._asked.start()
        self._asked.join(self._seconds)
        return self._answer

    def _ask(self) -> None:
        self._answer = self._function()
