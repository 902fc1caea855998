# SPDX-License-Identifier: Apache-2.0
"""``list``: the endpoints in a directory, and how they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from globus_compute_endpoint.cli.output import print_json, print_table
from globus_compute_endpoint.cli.profiles import user_directory
from globus_compute_endpoint.cli.units import unit_status
from globus_compute_endpoint.endpoint_json import read_endpoint_id
from globus_compute_endpoint.host.paths import system_endpoints
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.instance import instance_status

__all__ = ["list_endpoints"]


@dataclass(frozen=True)
class _Row:
    """One endpoint. ``host`` is another host on which it runs, ``None`` for this one."""

    endpoint_id: str | None
    status: str
    name: str
    host: str | None = None
    unit: str | None = None


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_endpoints(obj: dict[str, Path | None], as_json: bool) -> None:
    """List endpoints: this user's, and as root those of the system.

    Initialized: configured, never started. Running: takes tasks. Stopped: by its user.
    Disconnected: its process is gone, and nobody stopped it.
    """
    rows = list(_of_user(user_directory()))
    if os.geteuid() == 0 and obj["config_dir"] is None:
        rows += _of_system()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    columns = ["Endpoint ID", "Status", "Endpoint Name"]
    cells = [[f"{row.endpoint_id!s:36}", f"{row.status:12}", row.name] for row in rows]
    if any(row.host for row in rows):
        columns.append("Host")
        cells = [[*line, row.host or ""] for line, row in zip(cells, rows, strict=True)]
    print_table(columns, cells)


def _of_user(parent: Path) -> Iterator[_Row]:
    # What has no config.yaml is a manager's user endpoint, or nothing of ours.
    for config in sorted(parent.glob("*/config.yaml")):
        directory = EndpointDirectory(config.parent)
        status = instance_status(directory)
        yield _Row(
            _endpoint_id(directory.path / "endpoint.json"),
            status.state,
            config.parent.name,
            status.elsewhere,
        )


def _of_system() -> Iterator[_Row]:
    for paths in system_endpoints():
        endpoint_id = _endpoint_id(paths.registration)
        yield _Row(
            endpoint_id,
            unit_status(paths.manager_unit).state(registered=endpoint_id is not None),
            paths.name,
            unit=paths.manager_unit,
        )


def _endpoint_id(path: Path) -> str | None:
    try:
        known = read_endpoint_id(path)
    except Problem as problem:
        click.echo(f"Warning: {problem.message}", err=True)
        return None
    return str(known) if known else None
