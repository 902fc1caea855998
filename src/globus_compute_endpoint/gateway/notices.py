# SPDX-License-Identifier: Apache-2.0
"""Tell the web services, and so the researcher, that a user endpoint did not start or has died.

The report goes out with the user endpoint's own credentials, under its own id: under the
manager's, the services would have to take the manager for failed.
"""

from __future__ import annotations

import asyncio
import logging

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport

from globus_compute_endpoint.amqp.publisher import Unroutable, publish_once
from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.manager.protocol import ProblemFields

__all__ = ["Notices"]

log = logging.getLogger(__name__)

_REPORTED_PERIOD_S = 3
_MAX_AT_ONCE = 8


class Notices:
    """Publishes failure reports, a few at a time; owns the tasks which do."""

    def __init__(self, config: CommonConfig) -> None:
        self._config = config
        self._limit = asyncio.Semaphore(_MAX_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def report(self, credentials: UserEndpointQueues, problem: ProblemFields) -> asyncio.Task[None]:
        """Begin to publish a report; the task ends when the broker confirmed it, or cannot."""
        task = asyncio.create_task(self._publish(credentials, problem))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Wait for those under way; each has its own time-out."""
        await asyncio.gather(*self._tasks)

    async def _publish(self, credentials: UserEndpointQueues, problem: ProblemFields) -> None:
        endpoint_id = credentials.endpoint_id
        report = EPStatusReport(
            endpoint_id=endpoint_id,
            global_state={"error": str(problem), "heartbeat_period": _REPORTED_PERIOD_S},
            task_statuses={},
        )
        fields = {"GC_ENDPOINT_ID": str(endpoint_id), "GC_PROBLEM": problem.code}
        try:
            async with self._limit:
                await publish_once(
                    credentials.heartbeat_queue_info,
                    messagepack.pack(report),
                    name=f"notice for {endpoint_id}",
                    port=self._config.amqp_port,
                    ca_file=self._config.services.ca_file,
                )
        except (Unroutable, TimeoutError) as error:
            log.error("could not tell the services: %s", error or "time-out", extra=fields)
        else:
            log.info("told the services of %s: %s", endpoint_id, problem, extra=fields)
