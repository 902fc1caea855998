# SPDX-License-Identifier: Apache-2.0
"""What became of a task's earlier attempts, in words that outlive the process."""

from __future__ import annotations

import time
from collections.abc import Sequence

__all__ = ["lost_attempt", "tell_attempts"]


def lost_attempt(reason: str) -> str:
    """Return the entry of a task's history for an attempt that was lost just now."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}: {reason}"


def tell_attempts(history: Sequence[str]) -> str:
    """Return the last reason in a task's history, and what became of the other attempts."""
    last = history[-1].split(": ", 1)[-1]
    if len(history) == 1:
        return last
    lines = [f"  {n}. {each.splitlines()[0]}" for n, each in enumerate(history, 1)]
    return "\n".join([last, f"It was tried {len(history)} times:", *lines])
