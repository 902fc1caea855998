# SPDX-License-Identifier: Apache-2.0
"""``configure --multi-user``: the files of a manager endpoint."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import click
import yaml

from globus_compute_endpoint.host.paths import endpoint_paths
from globus_compute_endpoint.problem import ExitStatus, Problem

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
    directory = paths.configuration if for_units else (parent or _home()) / name
    _make(directory, shared=for_units)
    config = {
        "display_name": display_name,
        "identity_mapping_config_path": str(directory / _MAPPING),
        "multi_user": True,
    }
    _write(directory / "config.yaml", yaml.safe_dump(config, sort_keys=False), for_units)
    for file in (_MAPPING, _TEMPLATE, _SCHEMA, _ENVIRONMENT):
        _write(directory / file, _default(file), for_units)
    if for_units:
        _write(directory / _CREDENTIALS, _default(_CREDENTIALS), False)
    _tell(name, directory, for_units)


def _home() -> Path:
    return Path(os.environ.get("GLOBUS_COMPUTE_USER_DIR") or Path.home() / ".globus_compute")


def _default(name: str) -> str:
    return resources.files("globus_compute_endpoint.config").joinpath("defaults", name).read_text()


def _make(directory: Path, *, shared: bool) -> None:
    try:
        directory.parent.mkdir(mode=0o755 if shared else 0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o755 if shared else 0o700)
    except FileExistsError as error:
        raise Problem(
            "ENDPOINT_EXISTS",
            f"there is an endpoint {directory.name} already, in {directory}",
            "choose another name, or delete it first",
            ExitStatus.CANNOT_CREATE,
        ) from error
    except OSError as error:
        raise Problem(
            "CANNOT_CREATE",
            f"cannot create {directory}: {error.strerror}",
            "use --config-dir for another place",
            ExitStatus.CANNOT_CREATE,
        ) from error


def _write(path: Path, content: str, shared: bool) -> None:
    """The gateway, an account of its own, must be able to read what is not secret."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o644 if shared else 0o600)
        file.write(content)


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
            f"  Write its client identity into {directory / _CREDENTIALS}, map identities to\n"
            "  local users, then start it, now and at each boot:\n\n"
            f"    $ systemctl enable --now globus-compute-endpoint@{name}\n"
        )
    else:
        click.echo(
            "  Use the `start` subcommand to run it:\n\n"
            f"    $ globus-compute-endpoint start {name}\n"
        )
