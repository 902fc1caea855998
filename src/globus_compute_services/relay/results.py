# SPDX-License-Identifier: Apache-2.0
"""Results from endpoints: stored, and sent on to the researchers' result queues."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import Result

from globus_compute_services.broker import names
from globus_compute_services.broker.link import Delivery
from globus_compute_services.relay.dispatch import Dispatcher
from globus_compute_services.store.database import Database
from globus_compute_services.store.tasks import Completion, complete_tasks

__all__ = ["ResultsRelay"]

log = logging.getLogger(__name__)


class ResultsRelay:
    """Handles batches of the results queue."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._database = database
        self._dispatcher = dispatcher

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Store the results of a batch in one transaction."""
        completions = [
            completion for delivery in deliveries if (completion := _parse(delivery)) is not None
        ]
        if not completions:
            return
        async with self._database.write() as session:
            completed, refused = await complete_tasks(session, completions)
        self._dispatcher.wake()
        for task_id in completed:
            log.info("Task %s has a result", task_id, extra={"GC_TASK_ID": task_id})
        publishers = {completion.task_id: completion.endpoint_id for completion in completions}
        for task_id in refused:
            log.warning(
                "Dropped a result for task %s: it is not a task of endpoint %s",
                task_id,
                publishers[task_id],
                extra={"GC_TASK_ID": task_id, "GC_ENDPOINT_ID": publishers[task_id]},
            )


def _parse(delivery: Delivery) -> Completion | None:
    endpoint = names.endpoint_of_key(delivery.routing_key)
    try:
        message = messagepack.unpack(delivery.body)
        if endpoint is None or not isinstance(message, Result):
            raise ValueError(f"a {type(message).__name__} published as {delivery.routing_key}")
    except Exception as error:  # noqa: BLE001 (any bytes may come, and unpack tells in many ways)
        log.warning("Dropped what is not a result: %s", error, extra={"GC_ENDPOINT_ID": endpoint})
        return None
    return Completion(message.task_id, endpoint, message.is_error, delivery.body)
