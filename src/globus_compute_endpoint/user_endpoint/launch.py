# SPDX-License-Identifier: Apache-2.0
"""From the document which a manager hands over to a serving user endpoint.

This is the first code that runs as the mapped user, and the first that opens what the services
and the researcher have sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, ValidationError
from setproctitle import setproctitle

from globus_compute_endpoint.amqp import Unroutable, publish_once
from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.engines.base import Engine
from globus_compute_endpoint.engines.factory import build
from globus_compute_endpoint.host.paths import holds_work
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.blueprint import Blueprint, check, render
from globus_compute_endpoint.user_endpoint.books import Places, open_books
from globus_compute_endpoint.user_endpoint.control import Control
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.heartbeat import status_report
from globus_compute_endpoint.user_endpoint.home import reach_home
from globus_compute_endpoint.user_endpoint.installation import (
    other_installation,
    turn_into,
    with_port,
)
from globus_compute_endpoint.user_endpoint.journal_files import close_open_tasks
from globus_compute_endpoint.user_endpoint.logs import log_to
from globus_compute_endpoint.user_endpoint.service import NO_HOOKS, Hooks, Settings, UserEndpoint
from globus_compute_endpoint.user_endpoint.setup import run_script

__all__ = ["LaunchDocument", "launch", "process_title", "serve"]

log = logging.getLogger(__name__)

_NOTICE_PERIOD = 3  # what the services expect of a report of failure
_NOTICE_TIMEOUT = 30.0
_SETUP_TIMEOUT = 3600.0  # building an environment takes a while
_TEARDOWN_TIMEOUT = 600.0
_MARKS = "start_marks"


class LaunchDocument(Blueprint):
    """All that a user endpoint starts from.

    ``interruption``: why the one before it ended, as far as its manager knows, in words that go
    on from "the user endpoint was cut short: ". ``given_up``: its manager had given the one
    before it up, and told the services to fail all tasks which that had, if it could.
    """

    endpoint_id: UUID
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    manager_id: UUID
    amqp_creds: UserEndpointQueues
    environment: dict[str, str] = Field(default_factory=dict)
    ca_certificates: str | None = None
    debug: bool = False
    state_directory: Path | None = None
    interruption: str | None = None
    given_up: bool = False


def launch(
    document: bytes, control: socket.socket | None, listener: socket.socket | None = None
) -> int:
    """Become the user endpoint which ``document`` describes; return the exit status.

    The document is the manager's part and, behind a newline, the blob that it did not open.
    Whatever goes wrong is logged in full, and told to the researcher through the services.
    """
    conversation = Control(control, listener)
    try:
        content = _merged(document)
        parsed = LaunchDocument.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(f"{item['loc']}: {item['type']}" for item in error.errors())
        log.error("The document to start from is malformed: %s", fields)
        return int(ExitStatus.DATA)  # the manager tells the researcher, since we say nothing
    except (ValueError, TypeError) as error:
        log.error("The document to start from cannot be read: %s", error)
        return int(ExitStatus.DATA)
    told = True
    try:
        _turn_into_site_installation(parsed, content["amqp_creds"])
        status = _launch(parsed, conversation)
    except Problem as problem:
        log.error("Cannot start, or go on: %s", problem, exc_info=parsed.debug)
        status = int(problem.exit_status)
        told = not _leave_to_successor(parsed, problem) and _give_notice(parsed, str(problem))
    except Exception:  # the boundary: the researcher is told that something broke, the log what
        log.exception("The user endpoint has broken down")
        status = int(ExitStatus.INTERNAL)
        told = _give_notice(
            parsed, "the user endpoint has broken down: its administrator's log says why"
        )
    if told:
        conversation.tell("stopped" if status == 0 else "failed", 0)
    conversation.close()
    return status


def _leave_to_successor(document: LaunchDocument, problem: Problem) -> bool:
    """Whether what has gone wrong may pass, and our manager starts us again for our tasks."""
    state = document.state_directory
    passing = problem.exit_status is ExitStatus.TEMPORARY
    return passing and state is not None and holds_work(state)


def _merged(document: bytes) -> dict[str, Any]:
    """The manager's part goes last, so that nothing in the blob can take its place."""
    head, _, blob = document.partition(b"\n")
    return {**json.loads(blob or b"{}"), **json.loads(head)}


def process_title(endpoint_id: str, name: str) -> str:
    """Return what lists of processes show."""
    return f"Globus Compute Endpoint ({endpoint_id}, {name})"


def serve(settings: Settings, control: Control, hooks: Hooks = NO_HOOKS) -> None:
    """Serve until the end.

    Raises:
        Problem: the engine cannot be made, or has failed.
    """
    engine = build(settings.config.engine)
    if settings.config.endpoint_setup:
        hooks.running("endpoint_setup")
        if not run_script("endpoint_setup", settings.config.endpoint_setup, _SETUP_TIMEOUT):
            return
        hooks.running(None)
    try:
        asyncio.run(_run(settings, engine, control, hooks))
    finally:
        _tear_down(settings.config.endpoint_teardown)


def _tear_down(script: str | None) -> None:
    try:
        run_script("endpoint_teardown", script, _TEARDOWN_TIMEOUT)
    except Problem as problem:  # nobody's task has failed because of it
        log.error("%s", problem)


async def _run(settings: Settings, engine: Engine, control: Control, hooks: Hooks) -> None:
    books = await open_books(
        Places(
            settings.state_directory,
            settings.directory / _MARKS,
            settings.config.journal.allow_volatile,
        ),
        settings.endpoint_id,
        engine,
        interruption=settings.interruption,
        given_up=settings.given_up,
    )
    await UserEndpoint(settings, engine, books, control, hooks).run()


def _turn_into_site_installation(document: LaunchDocument, credentials: dict[str, Any]) -> None:
    """Set the environment; where its PATH leads to another installation, do not return."""
    _set_environment(document)
    program = reach_home(lambda: other_installation(document.environment.get("PATH")))
    if program is None:
        return
    allowed = document.allowed_functions
    handed = {
        "amqp_creds": credentials,
        "config": with_port(render(document), document.amqp_port),
        "ep_info": {
            "posix_ppid": os.getppid(),
            "globus_matched_identity": document.mapped_identity.get("globus", {}).get("id"),
        },
        "allowed_functions": None if allowed is None else [str(each) for each in allowed],
    }
    turn_into(program, document.name, handed, document.environment)


def _launch(document: LaunchDocument, control: Control) -> int:
    title = process_title(str(document.endpoint_id), document.name)
    setproctitle(title)
    directory = reach_home(partial(_prepare_directory, document))
    with directory.lock(document.state_directory):
        reach_home(partial(log_to, directory.log, str(document.endpoint_id), debug=document.debug))
        config = _config(document)
        log.info("Configured with %s", type(config.engine).__name__)
        state_directory = document.state_directory or directory.path
        settings = Settings(
            endpoint_id=str(document.endpoint_id),
            name=document.name,
            directory=directory.path,
            queues=document.amqp_creds,
            config=config,
            process_title=title,
            state_directory=state_directory,
            ca_certificates=document.ca_certificates,
            interruption=document.interruption,
            given_up=document.given_up,
        )
        try:
            serve(settings, control)
        finally:
            if document.state_directory is not None:  # whose owner removes it when it is empty
                directory.lock_file(document.state_directory).unlink(missing_ok=True)
    return 0


def _prepare_directory(document: LaunchDocument) -> EndpointDirectory:
    directory = EndpointDirectory.of(document.name)
    directory.make()
    directory.remember(document.endpoint_id)
    return directory


def _config(document: LaunchDocument) -> UserEndpointConfig:
    rendered = render(document)
    log.debug("Rendered configuration:\n%s", rendered)
    config = check(document, rendered)
    if config.journal.directory is not None:
        raise Problem(
            "JOURNAL_ELSEWHERE",
            "journal: {directory: …} is for endpoints of single users: here the manager chooses it",
            "remove it from the template",
            ExitStatus.CONFIGURATION,
        )
    return config


def _set_environment(document: LaunchDocument) -> None:
    os.environ.update(document.environment)
    runtime = document.user_runtime
    python = runtime.get("python")
    version = python.get("version") if isinstance(python, dict) else None
    for variable, value in (
        ("GC_USER_PYTHON_VERSION", version),
        ("GC_USER_SDK_VERSION", runtime.get("globus_compute_sdk_version")),
    ):
        if isinstance(value, str) and "\0" not in value:
            os.environ[variable] = value


def _give_notice(document: LaunchDocument, message: str) -> bool:
    """Tell the services; return whether the broker has confirmed it."""
    state = {"error": message, "heartbeat_period": _NOTICE_PERIOD}
    report = status_report(str(document.endpoint_id), state)
    notice = publish_once(
        document.amqp_creds.heartbeat_queue_info,
        report,
        name=f"{document.name} notice",
        port=document.amqp_port,
        ca_certificates=document.ca_certificates,
        timeout=_NOTICE_TIMEOUT,
    )
    try:
        asyncio.run(notice)
    except (TimeoutError, Unroutable, OSError) as error:
        log.error("The services could not be told of the failure: %s", error)
        return False
    # The services have failed all our tasks: none is to be run.
    close_open_tasks(document.state_directory or EndpointDirectory.of(document.name).path)
    return True
