# SPDX-License-Identifier: Apache-2.0
"""Publishing results until the broker has confirmed each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from globus_compute_endpoint.amqp import Publisher, TooLarge, Unroutable
from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.worker import task as worker

__all__ = ["ResultPublisher"]

log = logging.getLogger(__name__)


class ResultPublisher:
    """Publishes packed results; ``confirmed`` is called with the id of each task once."""

    def __init__(
        self, endpoint_id: str, publisher: Publisher, confirmed: Callable[[str], None]
    ) -> None:
        self._endpoint_id = endpoint_id
        self._publisher = publisher
        self._confirmed = confirmed
        self._waiting: dict[str, Backoff] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def outstanding(self) -> int:
        """How many results are not confirmed yet."""
        return len(self._waiting)

    def publish(self, task_id: str, result: bytes) -> None:
        """Publish a result, and again until it is confirmed."""
        if task_id not in self._waiting:
            self._waiting[task_id] = Backoff(1, 60)
            self._empty.clear()
        future = self._publisher.publish(result)
        future.add_done_callback(partial(self._answered, task_id, result))

    async def flush(self) -> None:
        """Wait until all are confirmed."""
        await self._empty.wait()

    def _answered(self, task_id: str, result: bytes, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            del self._waiting[task_id]
            if not self._waiting:
                self._empty.set()
            self._confirmed(task_id)
            return
        if not isinstance(error, Unroutable):
            raise error
        if isinstance(error, TooLarge):
            result = self._too_large(task_id, error)
        delay = self._waiting[task_id].next()
        log.warning(
            "The result of task %s was not taken: %s; trying again in %.0f s",
            task_id,
            error,
            delay,
            extra={"GC_TASK_ID": task_id},
        )
        asyncio.get_running_loop().call_later(delay, self.publish, task_id, result)

    def _too_large(self, task_id: str, error: TooLarge) -> bytes:
        text = (
            f"MaxResultSizeExceeded: {error}. Return less, or write it to a file and return the"
            " path."
        )
        context = {"endpoint_id": self._endpoint_id}
        return worker.failure(task_id, "MaxResultSizeExceeded", text, context)
