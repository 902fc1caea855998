# SPDX-License-Identifier: Apache-2.0
"""What ``ExecReload=`` of a manager's unit runs; not for people, who use ``systemctl reload``."""

from __future__ import annotations

import click

from globus_compute_endpoint.config.manager import load_manager_settings
from globus_compute_endpoint.config.template import check_templates
from globus_compute_endpoint.host.paths import EndpointPaths, endpoint_paths
from globus_compute_endpoint.manager.reloading import request_reload

__all__ = ["reload"]


@click.command("_reload", hidden=True)
@click.argument("name")
def reload(name: str) -> None:
    """Have the manager of the system endpoint NAME take its configuration anew, and wait."""
    paths = endpoint_paths(name)
    _check_templates(paths)
    changed = request_reload(paths.reload_socket)
    click.echo(f"in force now: {', '.join(changed)}")


def _check_templates(paths: EndpointPaths) -> None:
    """Here, so that the manager need not load Jinja."""
    settings = load_manager_settings(paths.configuration, environment=False)
    check_templates({"the user configuration template": settings.template, **settings.included})
