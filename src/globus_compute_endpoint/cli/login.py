# SPDX-License-Identifier: Apache-2.0
"""``login``, ``logout``: whose login is stored for the web services."""

from __future__ import annotations

import sys

import click
import globus_sdk
from globus_sdk.scopes import ComputeScopes

from globus_compute_endpoint.cli.identity import LoginPlace, login_place
from globus_compute_endpoint.credentials import (
    has_client_identity,
    log_in,
    login_problem,
    user_app,
)
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import UserInfo, WebServices

__all__ = ["login", "logout"]

_name = click.argument("name", required=False)


@click.command()
@_name
@click.option("--force", is_flag=True, help="Log in even if a login is stored.")
def login(name: str | None, force: bool) -> None:
    """Log in to the web services: prints a link, and takes the code which is shown there.

    With NAME, to the services which that endpoint's configuration names; as root, for a system
    endpoint, where its gateway alone reads it. The login stays good until `logout`.
    """
    place = login_place(name)
    _refuse_client_identity(place, name)
    app = user_app(place.config, storage=place.storage)
    services = WebServices(place.config, app)
    app.add_scope_requirements({ComputeScopes.resource_server: [ComputeScopes.all]})
    if not app.login_required():
        if not force:
            click.echo(f"Already logged in as {_shown(services.userinfo())}")
            return
        _require_terminal()
    try:
        log_in(app, name or "")
    except (globus_sdk.GlobusError, OSError) as error:
        raise login_problem(error, name or "") from error
    click.echo(f"Logged in as {_shown(services.userinfo())}")
    if place.unit is not None:
        click.echo(f"  Use it: systemctl restart {place.unit}")


@click.command()
@_name
def logout(name: str | None) -> None:
    """Revoke the stored login, and remove it. Endpoints which run go on until they register."""
    place = login_place(name)
    app = user_app(place.config, storage=place.storage)
    stored = app.token_storage.token_storage.get_token_data_by_resource_server()
    if not stored:
        click.echo("Nobody is logged in")
        return
    try:
        app.logout(sweep=True)
    except (globus_sdk.GlobusError, OSError) as error:
        raise login_problem(error, name or "") from error
    click.echo("Logged out")


def _shown(who: UserInfo) -> str:
    return who.preferred_username or str(who.sub)


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise Problem(
            "NO_TERMINAL",
            "there is no terminal to log in on; the stored login stays as it is",
            "run this command on one",
            ExitStatus.NO_PERMISSION,
        )


def _refuse_client_identity(place: LoginPlace, name: str | None) -> None:
    if not has_client_identity():
        return
    where = "gateway.env" if place.unit else "the environment"
    raise Problem(
        "CLIENT_IDENTITY_SET",
        f"{where} names a client identity, which comes before a login",
        "remove GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET there to use a login"
        + (f" for {name}" if name else ""),
        ExitStatus.CONFIGURATION,
    )
