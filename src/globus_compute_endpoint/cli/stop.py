# SPDX-License-Identifier: Apache-2.0
"""``stop`` and ``restart``: end a single user's endpoint in order."""

from __future__ import annotations

import signal
from typing import Any

import click

from globus_compute_endpoint.cli.endpoints import (
    UserEndpointOfOne,
    endpoint_named,
    name_argument,
    take_over_option,
)
from globus_compute_endpoint.host.processes import open_process, send_signal, wait_for_end
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.instance import (
    EndpointState,
    InstanceRecord,
    instance_status,
    note_stopped,
)
from globus_compute_endpoint.user_endpoint.leftovers import end_leftovers
from globus_compute_endpoint.user_manager.adoption import end_orphans

__all__ = ["restart", "stop", "stop_endpoint"]

_KILL_PATIENCE = 10.0
_timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds for an orderly end; after that its processes are killed.",
)


@click.command()
@name_argument
@_timeout_option
@take_over_option
def stop(name: str, timeout: float, take_over: bool) -> None:
    """Stop the endpoint NAME.

    Results which are done are published. Tasks which have not begun wait for the next start,
    which fails those that had begun, or runs them again as max_retries_on_system_failure allows.
    """
    endpoint = endpoint_named(name)
    if stop_endpoint(endpoint, timeout=timeout, take_over=take_over):
        click.echo(f"> Endpoint <{endpoint.name}> is now stopped")
    else:
        click.echo(f"> Endpoint <{endpoint.name}> is not running")


@click.command()
@name_argument
@_timeout_option
@take_over_option
@click.pass_obj
def restart(obj: dict[str, Any], name: str, timeout: float, take_over: bool) -> None:
    """Stop the endpoint NAME if it runs, and start it.

    It goes on running where its configuration is wrong, where nobody is logged in, and where it is
    not shown to who is.
    """
    from globus_compute_endpoint.cli.start import start_endpoint
    from globus_compute_endpoint.registration import WebServices

    endpoint = endpoint_named(name)
    config, _ = endpoint.load()
    services = WebServices(config)
    services.userinfo(name)
    if (endpoint_id := endpoint.directory.endpoint_id()) is not None:
        services.require_known(endpoint_id, name)
    stop_endpoint(endpoint, timeout=timeout, take_over=take_over)
    start_endpoint(endpoint, attach=False, take_over=take_over, debug=bool(obj["debug"]))


def stop_endpoint(endpoint: UserEndpointOfOne, *, timeout: float, take_over: bool) -> bool:
    """Stop it; return whether there was anything to stop.

    Raises:
        Problem: it is another host's, and not to be taken over (UNAVAILABLE).
    """
    status = instance_status(endpoint.directory)
    if not take_over:
        status.refuse_elsewhere(endpoint.name, "stop")
    record = status.record
    if record is None and status.state is EndpointState.DISCONNECTED:
        raise Problem(
            "STATE_UNREADABLE",
            f"{endpoint.directory.state_file} does not tell what is to be stopped",
            f"end the process which {endpoint.directory.lock_file()} names, if it still runs, and"
            f" remove {endpoint.directory.state_file}",
            ExitStatus.DATA,
        )
    if record is None or status.state in (EndpointState.INITIALIZED, EndpointState.STOPPED):
        return False
    if status.elsewhere:
        click.echo(
            f"What still runs on {record.host} is left to itself: pid {record.pid} ends there"
            " when it notices.",
            err=True,
        )
    else:
        _end(record, timeout)
        end_orphans(endpoint.directory.path, timeout)
    if instance_status(endpoint.directory).state is not EndpointState.STOPPED:
        note_stopped(endpoint.directory, record)
    return True


def _end(record: InstanceRecord, timeout: float) -> None:
    with open_process(record.process) as pidfd:
        if pidfd is not None:
            send_signal(pidfd, signal.SIGTERM)
            if wait_for_end(pidfd, timeout):
                return
            click.echo(f"Process {record.pid} takes too long, and is killed.", err=True)
            send_signal(pidfd, signal.SIGKILL)
            wait_for_end(pidfd, _KILL_PATIENCE)
    end_leftovers(record.instance, record.pid)
