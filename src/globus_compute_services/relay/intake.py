# SPDX-License-Identifier: Apache-2.0
"""Takes messages from a queue in batches and acknowledges them once they are dealt with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from globus_compute_services.broker.link import BrokerLink, Consumption, Delivery

__all__ = ["Intake"]

# Results may be 10 MiB each, and all that is unacknowledged is in memory.
_PREFETCH = 100


class Intake:
    """Consumes one queue; ``handle`` returns when the messages are safe, or raises."""

    def __init__(
        self,
        link: BrokerLink,
        queue: str,
        handle: Callable[[Sequence[Delivery]], Awaitable[None]],
    ) -> None:
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        self._handle = handle
        link.consume(Consumption(queue, _PREFETCH, self._arrived.put_nowait))

    async def run(self) -> None:
        """Handle what arrives, for ever."""
        while True:
            batch = [await self._arrived.get()]
            while not self._arrived.empty() and len(batch) < _PREFETCH:
                batch.append(self._arrived.get_nowait())
            # What came by a channel that is gone will come again.
            batch = [delivery for delivery in batch if delivery.channel.is_open]
            if not batch:
                continue
            await self._handle(batch)
            last = batch[-1]
            if last.channel.is_open:
                last.channel.basic_ack(last.tag, multiple=True)
