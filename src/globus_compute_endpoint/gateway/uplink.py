# SPDX-License-Identifier: Apache-2.0
"""A manager's two connections to the broker: start commands come, heartbeats go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import UUID

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport
from pydantic import SecretStr

from globus_compute_endpoint.amqp.connection import Connection
from globus_compute_endpoint.amqp.consumer import Consumer, Delivery
from globus_compute_endpoint.amqp.publisher import Publisher
from globus_compute_endpoint.amqp.renewal import Renewal
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration

__all__ = ["Uplink", "UplinkUser"]

log = logging.getLogger(__name__)

_COMMANDS_AT_ONCE = 32
_GOODBYE_TIMEOUT_S = 3.0


class UplinkUser(Protocol):
    """What a manager does with its uplink."""

    async def register(self) -> Registration:
        """Register, however long it takes; for fresh credentials, too."""

    def received(self, delivery: Delivery) -> None:
        """A message of the command queue, to be acknowledged."""

    def consuming(self) -> None:
        """The command queue is being consumed."""

    def commands_lost(self) -> None:
        """What was not acknowledged will come again."""

    def disconnected(self) -> None:
        """One of the connections is down, and will be made anew."""


class Uplink:
    """Registers, then stays connected; with fresh credentials whenever ours are refused."""

    def __init__(self, name: str, config: CommonConfig, user: UplinkUser) -> None:
        self._name = name
        self._config = config
        self._user = user
        self._consumer: Consumer | None = None
        self._connections: list[Connection] = []
        self._renewal = Renewal(self._renew)
        self._heard = asyncio.Event()  # the connection for heartbeats has come up
        self.endpoint_id: UUID | None = None

    @property
    def is_consuming(self) -> bool:
        """Whether start commands would reach us."""
        return self._consumer is not None and self._consumer.ready

    async def run(self) -> None:
        """Serve until cancelled. Raises Problem for a refusal which no retry mends."""
        registration = await self._user.register()
        async with self._connected(registration):
            await self._renewal.run()

    async def _renew(self) -> None:
        registration = await self._user.register()
        for connection, url in zip(self._connections, _urls(registration), strict=True):
            connection.replace_url(url)

    @contextlib.asynccontextmanager
    async def _connected(self, registration: Registration) -> AsyncIterator[None]:
        self.endpoint_id = registration.endpoint_id
        log.info("registered as endpoint %s", registration.endpoint_id)
        commands = registration.command_queue_info
        if commands is None:
            raise Problem(
                "NOT_A_MANAGER",
                "the web services gave this manager no command queue",
                "an endpoint which was registered as another kind must be registered anew",
                ExitStatus.UNAVAILABLE,
            )
        heartbeats = Publisher(registration.heartbeat_queue_info.queue_publish_kwargs)
        self._consumer = Consumer(
            commands.queue,
            self._user.received,
            prefetch=_COMMANDS_AT_ONCE,
            on_consuming=self._user.consuming,
        )
        of_commands, of_heartbeats = _urls(registration)
        self._connections = connections = [
            self._connection(of_commands, "commands", loses_commands=True),
            self._connection(of_heartbeats, "heartbeats", loses_commands=False),
        ]
        connections[0].add(self._consumer)
        connections[1].add(heartbeats)
        tasks = [asyncio.create_task(connection.run()) for connection in connections]
        tasks.append(asyncio.create_task(self._beat(heartbeats)))
        self._user.disconnected()
        try:
            yield
        finally:
            tasks.pop().cancel()
            self._consumer.cancel()
            with contextlib.suppress(Exception):  # a goodbye that nobody hears is no harm
                async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                    await heartbeats.publish(self._heartbeat(active=False))
            await asyncio.gather(*(connection.close() for connection in connections))
            await asyncio.gather(*tasks)

    def _connection(self, url: SecretStr, purpose: str, *, loses_commands: bool) -> Connection:
        def up() -> None:
            if not loses_commands:
                self._heard.set()

        def down(reason: BaseException) -> None:
            if loses_commands:
                self._user.commands_lost()
            self._user.disconnected()
            self._renewal.judge(reason)

        return Connection(
            url,
            name=f"{self._name} {purpose}",
            port=self._config.amqp_port,
            ca_file=self._config.services.ca_file,
            on_up=up,
            on_down=down,
        )

    async def _beat(self, heartbeats: Publisher) -> None:
        """One heartbeat a period, and one with each new connection: the services wait for that.

        One that could not be confirmed is not worth repeating.
        """
        await self._heard.wait()
        while True:
            self._heard.clear()
            confirmed = heartbeats.publish(self._heartbeat(active=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), self._config.heartbeat_period)
            if not confirmed.cancel() and (error := confirmed.exception()):
                log.warning("a heartbeat reached nobody: %s", error)

    def _heartbeat(self, *, active: bool) -> bytes:
        period = self._config.heartbeat_period if active else 0
        state = {"heartbeat_period": period, "active": active}
        report = EPStatusReport(endpoint_id=self.endpoint_id, global_state=state, task_statuses={})
        packed: bytes = messagepack.pack(report)
        return packed


def _urls(registration: Registration) -> tuple[SecretStr, SecretStr]:
    commands = registration.command_queue_info or registration.task_queue_info
    return commands.connection_url, registration.heartbeat_queue_info.connection_url
