# SPDX-License-Identifier: Apache-2.0
"""``_start-user-endpoint``: what managers run; not for people."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any, NoReturn

import click
from pydantic import BaseModel, ConfigDict, ValidationError
from setproctitle import setproctitle

from globus_compute_endpoint.amqp.queue_info import UserEndpointQueues
from globus_compute_endpoint.config.loading import load_yaml
from globus_compute_endpoint.host.paths import endpoint_paths
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.configuration import checked
from globus_compute_endpoint.user_endpoint.control import Control
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.launch import launch, process_title, serve
from globus_compute_endpoint.user_endpoint.logs import log_to, log_to_stderr
from globus_compute_endpoint.user_endpoint.service import Settings

__all__ = ["start_user_endpoint"]


class _Handed(BaseModel):
    """What `_start-user-endpoint` reads on standard input."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    amqp_creds: UserEndpointQueues
    config: str


@click.command("_start-user-endpoint", hidden=True)
@click.argument("name")
@click.option(
    "--control",
    type=int,
    help="Standard input is a whole launch document, and this descriptor leads to the manager.",
)
@click.option("--listen", type=int, help="With --control: where a later manager may connect.")
@click.pass_obj
def start_user_endpoint(
    obj: dict[str, Any], name: str, control: int | None, listen: int | None
) -> None:
    """Be the user endpoint NAME, whose queues and configuration come on standard input."""
    if control is not None:
        _launch(sys.stdin.buffer.read(), control, listen)
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
    config = checked(load_yaml(handed.config, source), source)
    directory = EndpointDirectory.of(endpoint_paths(name).name)
    directory.make()
    with directory.lock():
        endpoint_id = handed.amqp_creds.endpoint_id
        directory.remember(endpoint_id)
        title = process_title(str(endpoint_id), name)
        setproctitle(title)
        log_to_stderr()
        log_to(directory.log, str(endpoint_id), debug=obj["debug"] or config.debug)
        settings = Settings(
            str(endpoint_id), name, directory.path, handed.amqp_creds, config, title, directory.path
        )
        serve(settings, Control(None))


def _launch(document: bytes, control: int, listen: int | None) -> NoReturn:
    """Be it to the end of this process, which no thread of a user's function may hold up."""
    status = launch(document, _socket(control), None if listen is None else _socket(listen))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _socket(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
