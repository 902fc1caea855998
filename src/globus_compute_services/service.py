# SPDX-License-Identifier: Apache-2.0
"""The running services: one process, one event loop."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import AsyncExitStack, ExitStack

import uvicorn

from globus_compute_services import notify
from globus_compute_services.api.app import make_app
from globus_compute_services.api.context import Parts
from globus_compute_services.auth.desk import open_desk
from globus_compute_services.broker import names
from globus_compute_services.broker.accounts import Accounts
from globus_compute_services.broker.link import BrokerLink
from globus_compute_services.broker.management import Management
from globus_compute_services.listening import (
    describe,
    load_certificate,
    open_listeners,
    tls_context,
)
from globus_compute_services.problem import Problem
from globus_compute_services.relay.dispatch import Dispatcher
from globus_compute_services.relay.heartbeats import HeartbeatsRelay
from globus_compute_services.relay.housekeeping import Housekeeper
from globus_compute_services.relay.intake import Intake
from globus_compute_services.relay.results import ResultsRelay
from globus_compute_services.relay.starts import Starter
from globus_compute_services.settings import HttpSettings, Settings
from globus_compute_services.store.database import Database
from globus_compute_services.web_server import PromptProtocol, WebServer

__all__ = ["serve"]

log = logging.getLogger(__name__)

_BROKER_GRACE_S = 30
_STOP_GRACE_S = 15
_CONFIRM_GRACE_S = 5


class _Server(WebServer):
    """A web server with a certificate which can be renewed, and of which systemd hears."""

    def __init__(self, config: uvicorn.Config, http: HttpSettings) -> None:
        super().__init__(config)
        self._tls = http.tls
        if http.tls is not None:
            config.load()
            config.ssl = tls_context(http.tls)

    def stop(self) -> None:
        notify.tell_stopping()
        super().stop()

    def reload(self) -> None:
        """Take a renewed certificate; those who are connected do not notice."""
        if self._tls is None:
            log.info("There is no certificate to read again")
            return
        assert isinstance(self.config.ssl, ssl.SSLContext)
        try:
            load_certificate(self.config.ssl, self._tls)
        except Problem as problem:
            log.error("%s; the old one stays", problem)
        else:
            log.info("Read %s again", self._tls.certificate)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises Problem if the database or the address cannot be used; waits for RabbitMQ as long as
    it takes.
    """
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url)
        stack.push_async_callback(database.close)
        await database.upgrade()
        broker = settings.broker
        management = await stack.enter_async_context(
            Management(broker.management_url, broker.username, broker.password, broker.vhost)
        )
        link = BrokerLink(broker.own_url())
        accounts = Accounts(settings, management, link)
        dispatcher = Dispatcher(database, link, settings.retention_days)
        starter = Starter(database, link, accounts)
        housekeeper = Housekeeper(
            database,
            link,
            management=management,
            accounts=accounts,
            retention_days=settings.retention_days,
        )
        desk = await open_desk(database)
        parts = Parts(settings, database, link, accounts, dispatcher, starter, desk)
        await _run(parts, housekeeper, stack.enter_context(ExitStack()))


async def _run(parts: Parts, housekeeper: Housekeeper, owner: ExitStack) -> None:
    http = parts.settings.http
    listeners = open_listeners(http, owner)
    serving = f"serving on {describe(listeners, tls=http.tls is not None)}"
    results = ResultsRelay(parts.database, parts.dispatcher)
    heartbeats = HeartbeatsRelay(parts.database, parts.dispatcher, parts.starter)
    intakes = [
        Intake(parts.link, names.RESULTS_QUEUE, results.handle),
        Intake(parts.link, names.HEARTBEATS_QUEUE, heartbeats.handle),
    ]
    server = _Server(
        uvicorn.Config(
            make_app(parts),
            http=PromptProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_STOP_GRACE_S,
        ),
        http,
    )
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(parts.dispatcher.run())
            background = [
                sending,
                group.create_task(parts.link.run()),
                group.create_task(parts.starter.run()),
                group.create_task(housekeeper.run()),
                group.create_task(notify.keep_watchdog_fed()),
                group.create_task(_tell_ready(parts, serving)),
                *(group.create_task(intake.run()) for intake in intakes),
            ]
            await server.serve(sockets=listeners)
            # What was sent and is not noted as sent would be sent again by the next process.
            parts.dispatcher.stop()
            await asyncio.wait([sending], timeout=_CONFIRM_GRACE_S)
            for task in background:
                task.cancel()
    finally:
        server.should_exit = True


async def _tell_ready(parts: Parts, serving: str) -> None:
    """Ready when RabbitMQ is there, or after a while with what is missing as the status."""
    try:
        async with asyncio.timeout(_BROKER_GRACE_S):
            await parts.link.up.wait()
    except TimeoutError:
        notify.tell_ready(f"{serving}, waiting for RabbitMQ")
        await parts.link.up.wait()
        notify.tell_status(serving)
    else:
        notify.tell_ready(serving)
    log.info("Ready: %s", serving)
