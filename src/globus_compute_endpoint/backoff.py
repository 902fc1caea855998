# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt."""

from __future__ import annotations

from random import SystemRandom

__all__ = ["Backoff"]

_random = SystemRandom()


class Backoff:
    """Exponential back-off with jitter, so that thousands of endpoints do not return at once.

    Delays are in seconds. The n-th lies between half and the whole of ``initial * 2**n``,
    capped at ``maximum``.
    """

    def __init__(self, initial: float = 0.5, maximum: float = 30.0) -> None:
        self.initial = initial
        self.maximum = maximum
        self._next = initial

    def next(self) -> float:
        """Return the delay before the next attempt."""
        whole = self._next
        self._next = min(self.maximum, whole * 2)
        return _random.uniform(whole / 2, whole)

    def reset(self) -> None:
        """Begin anew: the last attempt has succeeded for good."""
        self._next = self.initial
