# SPDX-License-Identifier: Apache-2.0
"""``start``: run a single user's endpoint, in the foreground."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

import click
from pydantic import BaseModel, ConfigDict, ValidationError
from setproctitle import setproctitle

from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.config.loading import load_file, load_yaml, validate
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.host.paths import endpoint_paths
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.control import Control
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.launch import process_title, serve
from globus_compute_endpoint.user_endpoint.logs import log_to, log_to_stderr
from globus_compute_endpoint.user_endpoint.service import Settings

__all__ = ["start", "start_user_endpoint"]


class _Handed(BaseModel):
    """What `_start-user-endpoint` reads on standard input."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    amqp_creds: UserEndpointQueues
    config: str


@click.command()
@click.argument("name", default="default")
@click.option("--attach", is_flag=True, help="Stay in the foreground.")
@click.pass_obj
def start(obj: dict[str, Any], name: str, attach: bool) -> None:  # noqa: ARG001  (to come)
    """Start the endpoint NAME, and run it until it is stopped (Ctrl-C, SIGTERM)."""
    directory = _existing(name)
    config = _config(directory)
    with directory.lock():
        queues = _register(name, directory, config)
        click.echo(f"Starting endpoint; registered ID: {queues.endpoint_id}")
        _serve(name, directory, config, queues, debug=obj["debug"] or config.debug)


@click.command("_start-user-endpoint", hidden=True)
@click.argument("name")
@click.pass_obj
def start_user_endpoint(obj: dict[str, Any], name: str) -> None:
    """Be the user endpoint NAME, whose queues and configuration come on standard input."""
    try:
        handed = _Handed.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise Problem(
            "STDIN_MALFORMED",
            f"standard input lacks or garbles: {fields or 'everything'}",
            "this command is for managers",
            ExitStatus.DATA,
        ) from None  # the error's text holds passwords
    source = "the configuration on standard input"
    config = validate(UserEndpointConfig, load_yaml(handed.config, source), source)
    directory = EndpointDirectory.of(endpoint_paths(name).name)
    directory.make()
    with directory.lock():
        directory.remember(handed.amqp_creds.endpoint_id)
        _serve(name, directory, config, handed.amqp_creds, debug=obj["debug"] or config.debug)


def _existing(name: str) -> EndpointDirectory:
    directory = EndpointDirectory.of(endpoint_paths(name).name)
    if not directory.config.is_file():
        raise Problem(
            "NO_SUCH_ENDPOINT",
            f"there is no endpoint {name}: {directory.config} does not exist",
            f"create it: globus-compute-endpoint configure {name}",
            ExitStatus.CONFIGURATION,
        )
    return directory


def _config(directory: EndpointDirectory) -> UserEndpointConfig:
    document = load_file(directory.config)
    if document.get("multi_user"):
        raise Problem(
            "IS_A_MANAGER",
            f"{directory.config} is that of a manager, which systemd starts",
            "use: systemctl start globus-compute-endpoint@NAME",
            ExitStatus.CONFIGURATION,
        )
    return validate(UserEndpointConfig, document, str(directory.config))


def _register(
    name: str, directory: EndpointDirectory, config: UserEndpointConfig
) -> UserEndpointQueues:
    from globus_compute_endpoint.registration import RegistrationRequest, WebServices

    metadata = {"endpoint_config": directory.config.read_text()}
    request = RegistrationRequest(name, config, metadata=metadata)
    known: UUID | None = directory.endpoint_id()
    registration = WebServices(config).register(request, known)
    if known is None:
        directory.remember(registration.endpoint_id)
    return UserEndpointQueues(
        endpoint_id=registration.endpoint_id,
        task_queue_info=registration.task_queue_info,
        result_queue_info=registration.result_queue_info,
        heartbeat_queue_info=registration.heartbeat_queue_info,
    )


def _serve(
    name: str,
    directory: EndpointDirectory,
    config: UserEndpointConfig,
    queues: UserEndpointQueues,
    *,
    debug: bool,
) -> None:
    endpoint_id = str(queues.endpoint_id)
    title = process_title(endpoint_id, name)
    setproctitle(title)
    log_to_stderr()
    log_to(directory.log, endpoint_id, debug=debug)
    settings = Settings(endpoint_id, name, directory.path, queues, config, title)
    serve(settings, Control(None))
