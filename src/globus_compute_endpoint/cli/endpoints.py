# SPDX-License-Identifier: Apache-2.0
"""An endpoint as the commands of a single user's life cycle find it by its name."""

from __future__ import annotations

import os
from dataclasses import dataclass

import click

from globus_compute_endpoint.cli.profiles import refuse_another_users, user_directory
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.kind import is_manager
from globus_compute_endpoint.config.loading import Document, load_file, validate
from globus_compute_endpoint.config.manager import ManagerConfig
from globus_compute_endpoint.host.paths import endpoint_paths
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.configuration import checked
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory

__all__ = ["UserEndpointOfOne", "endpoint_named", "name_argument", "take_over_option"]

name_argument = click.argument("name", default="default")
take_over_option = click.option(
    "--take-over",
    is_flag=True,
    help="Even if the endpoint is another host's, which shares this home directory.",
)


@dataclass(frozen=True)
class UserEndpointOfOne:
    """A single user's endpoint which has been configured."""

    name: str
    directory: EndpointDirectory

    def load(self) -> tuple[CommonConfig, bool]:
        """Return its configuration, and whether it is a manager's.

        Raises:
            Problem: what is wrong with it, with file, key and line (CONFIGURATION).
        """
        document: Document = load_file(self.directory.config)
        manager = is_manager(document, self.directory.path)
        source = str(self.directory.config)
        if manager:
            return validate(ManagerConfig, document, source), True
        return checked(document, source), False


def endpoint_named(name: str) -> UserEndpointOfOne:
    """Find a configured endpoint.

    Raises:
        Problem: there is none, or it is one of the system's, which systemd runs (CONFIGURATION);
            root is led to another user's (NO_PERMISSION).
    """
    paths = endpoint_paths(name)
    refuse_another_users(user_directory() / paths.name)
    endpoint = UserEndpointOfOne(paths.name, EndpointDirectory.of(paths.name))
    if endpoint.directory.config.is_file():
        return endpoint
    if os.geteuid() == 0 and paths.config_yaml.is_file():
        raise Problem(
            "OF_THE_SYSTEM",
            f"the endpoint {name} is one of the system's, which systemd runs",
            f"use systemctl start, stop, restart, status {paths.manager_unit}",
            ExitStatus.CONFIGURATION,
        )
    raise Problem(
        "NO_SUCH_ENDPOINT",
        f"there is no endpoint {name}: {endpoint.directory.config} does not exist",
        f"create it: globus-compute-endpoint configure {name}",
        ExitStatus.CONFIGURATION,
    )
