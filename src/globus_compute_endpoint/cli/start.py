# SPDX-License-Identifier: Apache-2.0
"""``start``: register a single user's endpoint, and run it, by default in the background."""

from __future__ import annotations

import sys
from typing import Any

import click

from globus_compute_endpoint.cli.background import start_in_background
from globus_compute_endpoint.cli.endpoints import (
    UserEndpointOfOne,
    endpoint_named,
    name_argument,
    take_over_option,
)
from globus_compute_endpoint.cli.running import Handed, run_endpoint
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, RegistrationRequest, WebServices
from globus_compute_endpoint.user_endpoint.instance import EndpointState, instance_status
from globus_compute_endpoint.user_endpoint.logs import log_to_stderr

__all__ = ["start", "start_endpoint"]


@click.command()
@name_argument
@click.option("--attach", is_flag=True, help="Stay in the foreground, and log to the terminal.")
@take_over_option
@click.pass_obj
def start(obj: dict[str, Any], name: str, attach: bool, take_over: bool) -> None:
    """Start the endpoint NAME: register it, then run it in the background.

    The first start asks to log in, unless GLOBUS_COMPUTE_CLIENT_ID and
    GLOBUS_COMPUTE_CLIENT_SECRET are set. Returns once tasks are taken.
    """
    start_endpoint(
        endpoint_named(name), attach=attach, take_over=take_over, debug=bool(obj["debug"])
    )


def start_endpoint(
    endpoint: UserEndpointOfOne, *, attach: bool, take_over: bool, debug: bool
) -> None:
    """Start an endpoint which does not run.

    Raises:
        Problem: why not.
    """
    name, directory = endpoint.name, endpoint.directory
    config, manager = endpoint.load()
    _refuse_if_running(endpoint, take_over=take_over)
    # Registering anew takes the credentials away from whom another `start` has registered for.
    with directory.lock_start():
        _refuse_if_running(endpoint, take_over=take_over)
        request = RegistrationRequest(
            name, config, multi_user=manager, metadata=directory.metadata()
        )
        registration = _register(endpoint, request)
        handed = Handed(
            name=name,
            registration=registration,
            instance=request.instance,
            take_over=take_over,
            debug=debug or config.debug,
        )
        if not attach:
            # The SDK and we find the directory by the variable, which --config-dir sets.
            command = [sys.executable, "-P", "-m", "globus_compute_endpoint", "_serve"]
            start_in_background(command, handed.document(), directory.log)
    click.echo(f"Starting endpoint; registered ID: {registration.endpoint_id}")
    if attach:
        log_to_stderr()
        run_endpoint(endpoint, handed)


def _refuse_if_running(endpoint: UserEndpointOfOne, *, take_over: bool) -> None:
    status = instance_status(endpoint.directory)
    if not take_over:
        status.refuse_elsewhere(endpoint.name, "stop")
    if status.state is EndpointState.RUNNING and not status.elsewhere:
        assert status.record is not None
        raise Problem(
            "ALREADY_RUNNING",
            f"the endpoint {endpoint.name} is running already (pid {status.record.pid})",
            f"stop it first: globus-compute-endpoint stop {endpoint.name}",
            ExitStatus.CANNOT_CREATE,
        )


def _register(endpoint: UserEndpointOfOne, request: RegistrationRequest) -> Registration:
    directory = endpoint.directory
    known = directory.endpoint_id()
    registration = WebServices(request.config).register(request, known)
    if known is None:
        directory.remember(registration.endpoint_id)
    return registration
