# SPDX-License-Identifier: Apache-2.0
"""``enable-on-boot`` and ``disable-on-boot``: have systemd start a single user's endpoint."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from pathlib import Path

import click

from globus_compute_endpoint.cli.endpoints import (
    UserEndpointOfOne,
    endpoint_named,
    name_argument,
)
from globus_compute_endpoint.host.paths import endpoint_paths
from globus_compute_endpoint.host.unit_files import UNIT_DIRECTORY, BootUnit, environment_file
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write

__all__ = ["disable_on_boot", "enable_on_boot"]

# What makes this terminal's `start` go to the right services, as the right identity, and find
# the same programs.
_CARRIED = ("GLOBUS_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_FINAL = (
    ExitStatus.DATA,
    ExitStatus.UNAVAILABLE,
    ExitStatus.CANNOT_CREATE,
    ExitStatus.NO_PERMISSION,
    ExitStatus.CONFIGURATION,
)


@click.command("enable-on-boot")
@name_argument
def enable_on_boot(name: str) -> None:
    """Install a unit which starts the endpoint NAME at boot.

    Its environment is that of this terminal, as far as it concerns Globus, certificates and PATH.
    Without the right to install units, prints what someone who has it must run.
    """
    if _is_of_the_system(name):
        _tell_of_system_unit(name, "enable")
        return
    endpoint = endpoint_named(name)
    unit = _unit(endpoint)
    _write(unit.environment, environment_file(_carried()), 0o600)
    enable = f"   sudo systemctl enable {unit.unit} --now\n"
    if os.access(UNIT_DIRECTORY, os.W_OK):
        _write(unit.path, unit.text(), 0o644)
        click.echo(
            f"Systemd service installed. Run\n{enable}to enable the service and start the endpoint."
        )
        return
    draft = endpoint.directory.path / unit.unit
    _write(draft, unit.text(), 0o600)
    click.echo(
        f"Only an administrator can install units; this one is prepared as {draft}.\nRun\n"
        f"   sudo install -o root -g root -m 0644 {shlex.quote(str(draft))} {UNIT_DIRECTORY}/\n"
        f"{enable}to install and enable the service, and start the endpoint."
    )


@click.command("disable-on-boot")
@name_argument
def disable_on_boot(name: str) -> None:
    """Print what ends the endpoint NAME's start at boot, and removes its unit."""
    if _is_of_the_system(name):
        _tell_of_system_unit(name, "disable")
        return
    service = f"globus-compute-endpoint-{endpoint_paths(name).name}"
    path = UNIT_DIRECTORY / f"{service}.service"
    if not path.is_file():
        raise Problem(
            "NOT_ON_BOOT",
            f"the endpoint {name} is not started at boot: there is no {path}",
            "",
            ExitStatus.CONFIGURATION,
        )
    click.echo(
        "Run the following to disable on-boot-persistence:\n"
        f"   systemctl stop {service}\n"
        f"   systemctl disable {service}\n"
        f"   rm {path}"
    )


def _is_of_the_system(name: str) -> bool:
    return os.geteuid() == 0 and endpoint_paths(name).config_yaml.is_file()


def _tell_of_system_unit(name: str, verb: str) -> None:
    unit = endpoint_paths(name).manager_unit.removesuffix(".service")
    what = "is started at boot" if verb == "enable" else "is stopped, and not started at boot"
    click.echo(
        f"<{name}> is one of the system's endpoints, and has a unit already. It {what} after\n"
        f"   systemctl {verb} --now {unit}"
    )


def _unit(endpoint: UserEndpointOfOne) -> BootUnit:
    directory = endpoint.directory.path.absolute()
    owner = pwd.getpwuid(directory.stat().st_uid).pw_name
    # Not the script's path, which says nothing where it was started as a module.
    program = [sys.executable, "-P", "-m", "globus_compute_endpoint", "-c", str(directory.parent)]
    return BootUnit(
        name=endpoint.name,
        user=owner,
        start=[*program, "start", endpoint.name],
        stop=[*program, "stop", endpoint.name],
        pid_file=endpoint.directory.lock_file().absolute(),
        environment=directory / "boot.env",
        final_statuses=[int(status) for status in _FINAL],
    )


def _carried() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name == "PATH" or name.upper().startswith(_CARRIED)
    }


def _write(path: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from error
