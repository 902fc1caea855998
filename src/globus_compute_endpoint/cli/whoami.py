# SPDX-License-Identifier: Apache-2.0
"""``whoami``: as whom endpoints register."""

from __future__ import annotations

import click
import globus_sdk

from globus_compute_endpoint.cli.identity import login_place
from globus_compute_endpoint.cli.output import print_json, print_table
from globus_compute_endpoint.credentials import app_for
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import UserInfo, WebServices

__all__ = ["whoami"]

_COLUMNS = ("Username", "Name", "ID", "Email")


@click.command()
@click.argument("name", required=False)
@click.option("--linked-identities", is_flag=True, help="Show all identities of the account.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def whoami(name: str | None, linked_identities: bool, as_json: bool) -> None:
    """Show as whom endpoints register; fails where nobody is logged in, and asks nothing.

    With NAME, what counts is that endpoint's configuration; as root, for a system endpoint, its
    gateway's client identity or login.
    """
    place = login_place(name)
    app = app_for(place.config, storage=place.storage)
    services = WebServices(place.config, app)
    if isinstance(app, globus_sdk.UserApp) and app.login_required():
        raise Problem(
            "NOT_LOGGED_IN",
            "nobody is logged in to the web services",
            f"log in: globus-compute-endpoint login {name or ''}".rstrip(),
            ExitStatus.NO_PERMISSION,
        )
    rows = _rows(services.userinfo(), linked=linked_identities)
    if as_json:
        documents = [dict(zip(map(str.lower, _COLUMNS), row, strict=True)) for row in rows]
        print_json(documents if linked_identities else documents[0])
    else:
        print_table(_COLUMNS, rows)


def _rows(who: UserInfo, *, linked: bool) -> list[tuple[str | None, ...]]:
    if linked and who.identity_set:
        return [(each.username, each.name, str(each.sub), each.email) for each in who.identity_set]
    return [(who.preferred_username, who.name, str(who.sub), who.email)]
