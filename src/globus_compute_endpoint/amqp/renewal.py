# SPDX-License-Identifier: Apache-2.0
"""What to do about a broker which refuses our credentials: get fresh ones, not too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from pika.exceptions import (
    AMQPConnectionError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from globus_compute_endpoint.backoff import Backoff

__all__ = ["Renewal", "refuses_us"]

_QUEUE_REFUSED = (403, 404)  # the replies of a broker which was set up anew
_CREDENTIALS_REFUSED = (ProbableAuthenticationError, ProbableAccessDeniedError)
_PROVEN_S = 120.0  # credentials which lasted this long were good ones…
_PROVEN_PAUSES = 5  # …and longer than another instance, with pauses as ours, would have left them
_LONGEST_PAUSE_S = 300.0


def refuses_us(reason: BaseException) -> bool:
    """Whether a connection ended because its credentials, or its queue, are not ours any more."""
    causes = [reason]
    if isinstance(reason, AMQPConnectionError):
        causes.extend(arg for arg in reason.args if isinstance(arg, BaseException))
    lost_our_queue = getattr(reason, "reply_code", None) in _QUEUE_REFUSED
    return lost_our_queue or any(isinstance(cause, _CREDENTIALS_REFUSED) for cause in causes)


class Renewal:
    """Calls ``renew`` when the broker has refused us: once at a time, with back-off.

    Fresh credentials make older ones useless. Two instances of one endpoint would take them from
    each other for ever: the pauses between, which grow to minutes, make that harmless.
    """

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self._renew = renew
        self._refused = asyncio.Event()
        self._backoff = Backoff(maximum=_LONGEST_PAUSE_S)

    def judge(self, reason: BaseException) -> None:
        """Take note of why a connection ended."""
        if refuses_us(reason):
            self._refused.set()

    def forget(self) -> None:
        """Fresh credentials have come without us."""
        self._refused.clear()

    async def run(self) -> None:
        """Renew until cancelled; what ``renew`` raises ends it."""
        renewed, pause = time.monotonic(), 0.0
        while True:
            await self._refused.wait()
            if time.monotonic() - renewed > max(_PROVEN_S, _PROVEN_PAUSES * pause):
                self._backoff.reset()
            pause = self._backoff.next()
            await asyncio.sleep(pause)
            if not self._refused.is_set():
                continue
            await self._renew()
            renewed = time.monotonic()
            # Connections with the old credentials may have been refused meanwhile.
            self._refused.clear()
