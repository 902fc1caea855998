# SPDX-License-Identifier: Apache-2.0
"""``configure``: make an endpoint's directory, with files that work as they are."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from globus_compute_endpoint.cli.configure_manager import configure_manager
from globus_compute_endpoint.cli.profiles import (
    default_file,
    new_directory,
    user_directory,
    write_file,
)
from globus_compute_endpoint.host.paths import endpoint_paths

__all__ = ["configure"]


@click.command()
@click.argument("name", default="default")
@click.option("--multi-user", is_flag=True, help="Make a manager, which starts user endpoints.")
@click.option("--display-name", help="What the web services are to call it.")
@click.pass_obj
def configure(
    obj: dict[str, Path | None], name: str, multi_user: bool, display_name: str | None
) -> None:
    """Create the endpoint NAME: a directory with its configuration.

    As root, and without --config-dir, a manager is one of the system's: its files are in
    /etc/globus-compute-endpoint/NAME, and systemctl starts and stops it.
    """
    if multi_user:
        configure_manager(name, obj["config_dir"], display_name)
        return
    directory = user_directory() / endpoint_paths(name).name
    content = default_file("config.yaml")
    if display_name is not None:
        shown = yaml.safe_dump({"display_name": display_name}, allow_unicode=True)
        content = content.replace("display_name: null\n", shown, 1)
    with new_directory(directory):
        write_file(directory / "config.yaml", content)
    click.echo(
        f"Created profile for endpoint named <{name}>\n\n"
        f"    Configuration file: {directory / 'config.yaml'}\n\n"
        "Use the `start` subcommand to run it:\n\n"
        f"    $ globus-compute-endpoint start {name}"
    )
