# SPDX-License-Identifier: Apache-2.0
"""``delete``: unregister a single user's endpoint, and remove its directory."""

from __future__ import annotations

import shutil

import click

from globus_compute_endpoint.cli.endpoints import (
    UserEndpointOfOne,
    endpoint_named,
    name_argument,
    take_over_option,
)
from globus_compute_endpoint.cli.output import is_terminal
from globus_compute_endpoint.cli.stop import stop_endpoint
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.instance import EndpointState, instance_status

__all__ = ["delete"]

_STOP_TIMEOUT = 60.0


@click.command()
@name_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--force",
    is_flag=True,
    help="Stop it first if it runs; and go on where the web services cannot be told.",
)
@take_over_option
def delete(name: str, yes: bool, force: bool, take_over: bool) -> None:
    """Delete the endpoint NAME: from the web services, and its directory with all logs."""
    endpoint = endpoint_named(name)
    status = instance_status(endpoint.directory)
    if not take_over:
        status.refuse_elsewhere(endpoint.name, "delete")
    if status.state is EndpointState.RUNNING and not force and not status.elsewhere:
        raise Problem(
            "RUNNING",
            f"the endpoint {endpoint.name} is running",
            f"stop it first (globus-compute-endpoint stop {endpoint.name}), or use --force",
            ExitStatus.CANNOT_CREATE,
        )
    _confirm(endpoint, yes=yes)
    stop_endpoint(endpoint, timeout=_STOP_TIMEOUT, take_over=take_over)
    _unregister(endpoint, force=force)
    _remove(endpoint)
    click.echo(f"> Endpoint <{endpoint.name}> has been deleted")


def _confirm(endpoint: UserEndpointOfOne, *, yes: bool) -> None:
    if yes:
        return
    if not is_terminal():
        raise Problem(
            "NOT_CONFIRMED",
            f"nobody is here to confirm that {endpoint.directory.path} is to be deleted",
            "use --yes",
            ExitStatus.CONFIGURATION,
        )
    click.confirm(f"Delete {endpoint.directory.path} and all in it?", abort=True)


def _unregister(endpoint: UserEndpointOfOne, *, force: bool) -> None:
    from globus_compute_endpoint.registration import WebServices

    try:
        if (known := endpoint.directory.endpoint_id()) is None:
            return
        config, _ = endpoint.load()
        WebServices(config).delete(known)
    except Problem as problem:
        if not force:
            raise Problem(
                problem.code,
                f"the web services keep the endpoint: {problem.message}",
                f"{problem.hint}; or use --force to delete the local part alone",
                problem.exit_status,
            ) from problem
        click.echo(f"The web services keep the endpoint: {problem.message}", err=True)


def _remove(endpoint: UserEndpointOfOne) -> None:
    path = endpoint.directory.path
    try:
        for of_user_endpoint in path.parent.glob(f"uep.{endpoint.directory.endpoint_id()}.*"):
            shutil.rmtree(of_user_endpoint)
        shutil.rmtree(path)
    except OSError as error:
        raise Problem(
            "CANNOT_DELETE",
            f"cannot delete {error.filename}: {error.strerror}",
            "remove the directory by hand",
            ExitStatus.CANNOT_CREATE,
        ) from error
