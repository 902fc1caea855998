# SPDX-License-Identifier: Apache-2.0
"""How often sign-ins may fail before the next one has to wait."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Throttle"]

_WINDOW_S = 900.0
_MOST_FOR_ONE_FROM_ONE_PLACE = 5
_MOST_FOR_ONE = 50
_MOST_FROM_ONE_PLACE = 50
_REMEMBERED = 20_000


@dataclass
class _Count:
    since: float
    failures: int = 0


class Throttle:
    """Counts failures by account, by address, and by both, in windows of a quarter of an hour.

    An attempt counts as a failure until it is known to be none, so that many at once gain nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[tuple[str, str], _Count] = OrderedDict()

    def begin(self, username: str, address: str) -> float:
        """Count an attempt, if it may be made; returns for how many seconds it may not."""
        limits = self._limits(username, address)
        wait = max(self._wait(key, most) for key, most in limits.items())
        if wait <= 0:
            for key in limits:
                self._count(key).failures += 1
            while len(self._counts) > _REMEMBERED:
                self._counts.popitem(last=False)
        return max(wait, 0.0)

    def succeeded(self, username: str, address: str) -> None:
        """That attempt was none to count; what failed before from there is forgiven."""
        both, *each = self._limits(username, address)
        self._counts.pop(both, None)
        self._discount(*each)

    def not_tried(self, username: str, address: str) -> None:
        """That attempt came to nothing, neither right nor wrong."""
        self._discount(*self._limits(username, address))

    def _discount(self, *keys: tuple[str, str]) -> None:
        for key in keys:
            if (count := self._counts.get(key)) is not None:
                count.failures -= 1

    def _limits(self, username: str, address: str) -> dict[tuple[str, str], int]:
        place = _place(address)
        return {
            (username, place): _MOST_FOR_ONE_FROM_ONE_PLACE,
            (username, ""): _MOST_FOR_ONE,
            ("", place): _MOST_FROM_ONE_PLACE,
        }

    def _wait(self, key: tuple[str, str], most: int) -> float:
        count = self._counts.get(key)
        if count is None or count.failures < most:
            return 0.0
        return count.since + _WINDOW_S - self._clock()

    def _count(self, key: tuple[str, str]) -> _Count:
        now = self._clock()
        count = self._counts.get(key)
        if count is None or count.since + _WINDOW_S <= now:
            count = self._counts[key] = _Count(now)
            self._counts.move_to_end(key)
        return count


def _place(address: str) -> str:
    """Who has one IPv6 address has, as a rule, all of its /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
