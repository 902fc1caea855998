# SPDX-License-Identifier: Apache-2.0
"""``render-user-config``: what a user endpoint would be configured with, without starting one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from globus_compute_endpoint.cli.output import print_json
from globus_compute_endpoint.cli.profiles import user_directory
from globus_compute_endpoint.config.manager import (
    ManagerConfig,
    ManagerSettings,
    load_manager_settings,
    load_templates,
)
from globus_compute_endpoint.host.paths import endpoint_paths
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.launching import manager_part
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.lookup import calling_user, look_up
from globus_compute_endpoint.user_endpoint.blueprint import Blueprint, check, render

__all__ = ["render_user_config"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NOBODY = UUID(int=0)


@click.command("render-user-config")
@click.argument("name", required=False)
@click.option("--template", type=_FILE, help="Render this file instead of an endpoint's.")
@click.option("--schema", type=_FILE, help="Check the options against this, with --template.")
@click.option(
    "--user-options",
    metavar="JSON|@FILE|-",
    default="{}",
    help="What the researcher gives as user_endpoint_config; - is standard input.",
)
@click.option("--set", "more", metavar="KEY=VALUE", multiple=True, help="One more such option.")
@click.option("--as", "uname", metavar="USER", help="The local user who it would be for: you.")
@click.option("--identity", type=click.UUID, default=_NOBODY, help="Their Globus identity.")
@click.option(
    "--runtime", metavar="JSON|@FILE|-", default="{}", help="The researcher's user_runtime."
)
@click.option("--json", "as_json", is_flag=True, help="Print the parsed configuration too.")
@click.pass_obj
def render_user_config(
    obj: dict[str, Any],
    *,
    name: str | None,
    template: Path | None,
    schema: Path | None,
    user_options: str,
    more: tuple[str, ...],
    uname: str | None,
    identity: UUID,
    runtime: str,
    as_json: bool,
) -> None:
    """Show what user endpoints of the manager NAME would be configured with.

    Nothing is started, and nobody is asked: the template is rendered with the options given here,
    and what comes of it is checked as a user endpoint would check it.
    """
    settings = _settings(obj["config_dir"], name, template, schema)
    options = _mapping("--user-options", user_options) | dict(_pair(each) for each in more)
    blueprint = Blueprint.model_validate(
        {
            **manager_part(settings, _local_user(uname) if uname else calling_user(), identity),
            "user_opts": options,
            "user_runtime": _mapping("--runtime", runtime),
        }
    )
    rendered = render(blueprint)
    if not as_json:  # before the check, whose messages name its lines
        click.echo(rendered, nl=not rendered.endswith("\n"))
    config = check(blueprint, rendered)
    if as_json:
        print_json({"rendered": rendered, "config": config.model_dump(mode="json")})


def _settings(
    parent: Path | None, name: str | None, template: Path | None, schema: Path | None
) -> ManagerSettings:
    if (name is None) == (template is None):
        raise click.UsageError("Give either the NAME of an endpoint, or --template.")
    if schema is not None and template is None:
        raise click.UsageError("--schema goes with --template; an endpoint has its own.")
    if template is not None:
        return load_templates(ManagerConfig(), template, schema)
    assert name is not None
    # The environment may be for root's eyes, and takes no part in this.
    return load_manager_settings(_directory(parent, name), environment=False)


def _directory(parent: Path | None, name: str) -> Path:
    """One's own endpoint of this name, else the system's."""
    paths = endpoint_paths(name)
    own = user_directory() / name
    if parent is None and not own.exists() and paths.config_yaml.exists():
        return paths.configuration
    return own


def _mapping(option: str, text: str) -> dict[str, Any]:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise click.BadParameter(f"{text:.80}: {reason}", param_hint=option) from error
    if not isinstance(value, dict):
        raise click.BadParameter("it must be a JSON object", param_hint=option)
    return value


def _pair(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, where what is no JSON is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text}: write KEY=VALUE", param_hint="--set")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _local_user(uname: str) -> LocalUser:
    if user := look_up(uname):
        return user
    raise Problem(
        "LOCAL_USER_MISSING",
        f"there is no local user {uname}",
        "name one with --as",
        ExitStatus.CONFIGURATION,
    )
