# SPDX-License-Identifier: Apache-2.0
"""A user endpoint's connections: tasks come on one, results and heartbeats go on another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pydantic import SecretStr

from globus_compute_endpoint.amqp import Connection
from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues

__all__ = ["Links"]


class _Connect(Protocol):
    def __call__(
        self, purpose: str, url: SecretStr, on_up: Callable[[], None] | None = None
    ) -> Connection: ...


class Links:
    """``heartbeats`` is ``results``, unless the services name another broker for them."""

    def __init__(
        self, queues: UserEndpointQueues, connect: _Connect, on_results_up: Callable[[], None]
    ) -> None:
        results, heartbeats = queues.result_queue_info, queues.heartbeat_queue_info
        self.tasks = connect("tasks", queues.task_queue_info.connection_url)
        self.results = connect("results", results.connection_url, on_up=on_results_up)
        self.heartbeats = self.results
        if heartbeats.connection_url != results.connection_url:
            self.heartbeats = connect("heartbeats", heartbeats.connection_url)

    def all(self) -> list[Connection]:
        """Each connection once."""
        return list(dict.fromkeys([self.tasks, self.results, self.heartbeats]))

    def use(self, queues: UserEndpointQueues) -> None:
        """Go on with fresh credentials."""
        self.tasks.replace_url(queues.task_queue_info.connection_url)
        self.results.replace_url(queues.result_queue_info.connection_url)
        if self.heartbeats is not self.results:
            self.heartbeats.replace_url(queues.heartbeat_queue_info.connection_url)
