# SPDX-License-Identifier: Apache-2.0
"""``configure --multi-user``: the files of a manager endpoint."""

from __future__ import annotations

import os
from pathlib import Path

import click
import yaml

from globus_compute_endpoint.cli.profiles import (
    default_file,
    new_directory,
    user_directory,
    write_file,
)
from globus_compute_endpoint.host.paths import endpoint_paths

__all__ = ["configure_manager"]

_MAPPING = "example_identity_mapping_config.json"
_TEMPLATE = "user_config_template.yaml.j2"
_SCHEMA = "user_config_schema.json"
_ENVIRONMENT = "user_environment.yaml"
_CREDENTIALS = "gateway.env"


def configure_manager(name: str, parent: Path | None, display_name: str | None) -> None:
    """Write a manager's files below ``parent``, or as root where the packages' units look.

    Raises Problem where there is such an endpoint already, or it cannot be written.
    """
    paths = endpoint_paths(name)
    for_units = parent is None and os.geteuid() == 0
    directory = paths.configuration if for_units else (parent or user_directory()) / name
    config = {
        "display_name": display_name,
        "identity_mapping_config_path": str(directory / _MAPPING),
        "multi_user": True,
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    # The gateway, an account of its own, must be able to read what is not secret.
    with new_directory(directory, shared=for_units):
        write_file(directory / "config.yaml", text, shared=for_units)
        for file in (_MAPPING, _TEMPLATE, _SCHEMA, _ENVIRONMENT):
            write_file(directory / file, default_file(file), shared=for_units)
        if for_units:
            write_file(directory / _CREDENTIALS, default_file(_CREDENTIALS))
    _tell(name, directory, for_units)


def _tell(name: str, directory: Path, for_units: bool) -> None:
    click.echo(
        f"Created multi-user profile for endpoint named <{name}>\n\n"
        f"    Configuration file: {directory / 'config.yaml'}\n\n"
        f"    Example identity mapping configuration: {directory / _MAPPING}\n\n"
        f"    User endpoint configuration template: {directory / _TEMPLATE}\n"
        f"    User endpoint configuration schema: {directory / _SCHEMA}\n"
        f"    User endpoint environment variables: {directory / _ENVIRONMENT}\n"
    )
    if for_units:
        click.echo(
            f"  Write its client identity into {directory / _CREDENTIALS}, or log in for it\n"
            f"  (globus-compute-endpoint login {name}); map identities to local users, then\n"
            "  start it, now and at each boot:\n\n"
            f"    $ systemctl enable --now globus-compute-endpoint@{name}\n"
        )
    else:
        click.echo(
            "  Use the `start` subcommand to run it:\n\n"
            f"    $ globus-compute-endpoint start {name}\n"
        )
