# SPDX-License-Identifier: Apache-2.0
"""Being a single user's endpoint, once it is registered; ``_serve`` is that in the background."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import click
from pydantic import BaseModel, ConfigDict, SecretStr
from setproctitle import setproctitle

from globus_compute_endpoint import amqp
from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.cli.background import Reporter
from globus_compute_endpoint.cli.endpoints import UserEndpointOfOne, endpoint_named
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.gateway.registering import Registrar
from globus_compute_endpoint.host.patience import LastAnswer
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, RegistrationRequest, WebServices
from globus_compute_endpoint.user_endpoint.control import Control
from globus_compute_endpoint.user_endpoint.instance import Instance, running_instance
from globus_compute_endpoint.user_endpoint.journal_disk import journal_directory
from globus_compute_endpoint.user_endpoint.launch import process_title, serve
from globus_compute_endpoint.user_endpoint.logs import log_to
from globus_compute_endpoint.user_endpoint.service import NO_HOOKS, STOP_SIGNALS, Hooks, Settings

__all__ = ["Handed", "run_endpoint", "serve_in_background"]

log = logging.getLogger(__name__)


class Handed(BaseModel):
    """What ``start`` hands over to the process that serves."""

    model_config = ConfigDict(frozen=True)

    name: str
    registration: Registration
    instance: UUID
    take_over: bool
    debug: bool

    def document(self) -> bytes:
        """Return it as JSON, passwords and all: for a pipe, never for a log."""
        return json.dumps(self.model_dump(), default=_plain).encode()


class _FirstTrouble(logging.Handler):
    """Passes on the first warning that comes to it; those which follow say it again."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell: Callable[[str], None] | None = tell

    def emit(self, record: logging.LogRecord) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(record.getMessage())


class _StopAskedFor(BaseException):
    """A signal came before there was an event loop to take it."""


@click.command("_serve", hidden=True)
@click.argument("report", type=int)
def serve_in_background(report: int) -> None:
    """Be the endpoint which standard input describes; tell the descriptor REPORT how it goes."""
    handed = Handed.model_validate_json(sys.stdin.buffer.read())
    reporter = Reporter(report)
    hooks = Hooks(ready=reporter.ready, running=reporter.running)
    logging.getLogger(amqp.__name__).addHandler(_FirstTrouble(reporter.trouble))
    try:
        run_endpoint(endpoint_named(handed.name), handed, hooks)
    except Problem as problem:
        log.error("Cannot start, or go on: %s", problem)
        reporter.failed(problem)
        raise


def run_endpoint(endpoint: UserEndpointOfOne, handed: Handed, hooks: Hooks = NO_HOOKS) -> None:
    """Serve until told to stop.

    Raises:
        Problem: another instance runs, or why this one cannot go on.
    """
    endpoint_id = handed.registration.endpoint_id
    directory = endpoint.directory
    title = process_title(str(endpoint_id), endpoint.name)
    setproctitle(title)
    with (
        running_instance(endpoint.name, directory, take_over=handed.take_over) as instance,
        _stopped_by_signals(),
    ):
        log_to(directory.log, str(endpoint_id), debug=handed.debug)
        config, manager = endpoint.load()
        if manager:
            _serve_manager(endpoint, handed, _with_instance(hooks, instance))
            return
        assert isinstance(config, UserEndpointConfig)
        queues = _queues(handed.registration)
        settings = Settings(
            endpoint_id=str(endpoint_id),
            name=endpoint.name,
            directory=directory.path,
            queues=queues,
            config=config,
            process_title=title,
            state_directory=journal_directory(config.journal, endpoint_id) or directory.path,
            interruption=instance.interruption,
        )
        renewing = replace(hooks, renew=_renewer(endpoint, handed, config))
        serve(settings, Control(None), _with_instance(renewing, instance))


def _serve_manager(endpoint: UserEndpointOfOne, handed: Handed, hooks: Hooks) -> None:
    from globus_compute_endpoint.user_manager.service import (
        UserManagerSettings,
        serve_user_manager,
    )

    settings = UserManagerSettings(
        name=endpoint.name,
        directory=endpoint.directory,
        registration=handed.registration,
        instance=handed.instance,
        debug=handed.debug,
    )
    serve_user_manager(settings, hooks)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let signals end what is inside, also before and after its event loop."""

    def stop(number: int, _frame: Any) -> None:
        log.info("Stopping: %s received", signal.Signals(number).name)
        raise _StopAskedFor

    earlier = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        with contextlib.suppress(_StopAskedFor):
            yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _with_instance(hooks: Hooks, instance: Instance) -> Hooks:
    is_ours = LastAnswer(instance.is_ours, first=True)  # the home may be away
    return replace(hooks, is_ours=is_ours, status_address=instance.status_address)


def _renewer(
    endpoint: UserEndpointOfOne, handed: Handed, config: UserEndpointConfig
) -> Callable[[], Awaitable[UserEndpointQueues]]:
    """Registering anew, as the instance which we are."""
    directory = endpoint.directory
    request = RegistrationRequest(
        endpoint.name, config, metadata=directory.metadata(), instance=handed.instance
    )

    async def renew() -> UserEndpointQueues:
        log.info("Registering anew, for fresh credentials")
        try:
            services = await asyncio.to_thread(WebServices, config)
        except (OSError, sqlite3.Error) as error:
            raise Problem(
                "LOGIN_UNREADABLE",
                f"the stored login cannot be read: {error}",
                exit_status=ExitStatus.TEMPORARY,
            ) from error
        registered = handed.registration.endpoint_id
        registrar = Registrar(services, request, directory.path / "endpoint.json", registered)
        return _queues(
            await registrar.register(lambda problem: log.warning("%s; trying again", problem))
        )

    return renew


def _queues(registration: Registration) -> UserEndpointQueues:
    return UserEndpointQueues(
        endpoint_id=registration.endpoint_id,
        task_queue_info=registration.task_queue_info,
        result_queue_info=registration.result_queue_info,
        heartbeat_queue_info=registration.heartbeat_queue_info,
    )


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
