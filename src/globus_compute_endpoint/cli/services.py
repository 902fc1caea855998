# SPDX-License-Identifier: Apache-2.0
"""What the units of a system endpoint run; not for people."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

import click

from globus_compute_endpoint.host.paths import EndpointPaths, endpoint_paths
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["gateway", "manager", "spawner"]


def _run(role: str, name: str, *, root: bool) -> None:
    """Import one role's package alone: privileged processes load as little as they can."""
    paths = endpoint_paths(name)
    if root and os.geteuid() != 0:
        raise Problem(
            "NOT_ROOT",
            f"the {role} runs as root",
            f"use: systemctl start {paths.manager_unit}",
            ExitStatus.NO_PERMISSION,
        )
    module = importlib.import_module(f"globus_compute_endpoint.{role}.service")
    run: Callable[[EndpointPaths], int] = getattr(module, f"run_{role}")
    sys.exit(run(paths))


@click.command("_manager", hidden=True)
@click.argument("name")
def manager(name: str) -> None:
    """Be the manager of the system endpoint NAME."""
    _run("manager", name, root=True)


@click.command("_gateway", hidden=True)
@click.argument("name")
def gateway(name: str) -> None:
    """Be the gateway of the system endpoint NAME."""
    _run("gateway", name, root=False)


@click.command("_spawner", hidden=True)
@click.argument("name")
def spawner(name: str) -> None:
    """Be the spawner of the system endpoint NAME."""
    _run("spawner", name, root=True)
