# SPDX-License-Identifier: Apache-2.0
"""Handing things from engine threads over to the event loop, many at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Handoff"]

Item = TypeVar("Item")


class Handoff(Generic[Item]):
    """Calls ``take`` on the loop for each item that any thread has put."""

    def __init__(self, take: Callable[[Item], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._waking = False

    def put(self, item: Item) -> None:
        """Hand over an item, from any thread."""
        self._items.append(item)
        if not self._waking:  # else a wake-up is on its way, and will see what was appended
            self._waking = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._waking = False
        while self._items:
            self._take(self._items.popleft())
