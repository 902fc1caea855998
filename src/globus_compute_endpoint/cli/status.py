# SPDX-License-Identifier: Apache-2.0
"""``status``: one endpoint, its user endpoints, their blocks, batch jobs and tasks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from globus_compute_endpoint.cli.endpoints import UserEndpointOfOne, endpoint_named, name_argument
from globus_compute_endpoint.cli.output import print_json
from globus_compute_endpoint.cli.profiles import user_directory
from globus_compute_endpoint.cli.status_text import Seen, document, show
from globus_compute_endpoint.cli.tasks import count_waiting
from globus_compute_endpoint.cli.units import unit_status
from globus_compute_endpoint.endpoint_json import read_endpoint_id
from globus_compute_endpoint.host.paths import EndpointPaths, endpoint_paths
from globus_compute_endpoint.overview import ask_status
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint.inspection import last_end
from globus_compute_endpoint.user_endpoint.instance import EndpointState, instance_status

__all__ = ["status"]

_NOT_RUNNING, _NOT_KNOWN = 3, 4  # as the Linux Standard Base has it, and systemctl(1)


@click.command("status")
@name_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(obj: dict[str, Path | None], name: str, as_json: bool) -> int:
    """Show how the endpoint NAME is: its user endpoints, blocks, batch jobs and tasks.

    Exits with 0 where it runs, with 3 where it does not, with 4 where another host would know.
    """
    paths = endpoint_paths(name)
    system = os.geteuid() == 0 and obj["config_dir"] is None and paths.config_yaml.is_file()
    if system and not (user_directory() / name / "config.yaml").is_file():
        seen = _of_system(paths)
    else:
        seen = _of_user(endpoint_named(name))
    problem = None
    if seen.address is not None:
        try:
            seen = replace(seen, overview=ask_status(seen.address))
        except Problem as told:
            problem = told
    elif seen.host is None:
        seen = replace(seen, waiting_tasks=count_waiting(name, system=seen.kind == "system"))
    if as_json:
        print_json(document(seen))
    else:
        show(seen)
    if problem is not None:
        raise problem
    if seen.host is not None:
        return _NOT_KNOWN
    return 0 if seen.state is EndpointState.RUNNING else _NOT_RUNNING


def _of_system(paths: EndpointPaths) -> Seen:
    endpoint_id = read_endpoint_id(paths.registration)
    unit = unit_status(paths.manager_unit)
    state = unit.state(registered=endpoint_id is not None)
    text = unit.text
    if state is not EndpointState.RUNNING and unit.result != "success":
        text = f"{text} ({unit.result}: see journalctl -u {paths.manager_unit})".strip()
    return Seen(
        name=paths.name,
        kind="system",
        endpoint_id=str(endpoint_id) if endpoint_id else None,
        state=state,
        address=paths.status_socket if state is EndpointState.RUNNING else None,
        unit=paths.manager_unit,
        pid=unit.pid or None,
        since=unit.since,
        text=text,
    )


def _of_user(endpoint: UserEndpointOfOne) -> Seen:
    directory = endpoint.directory
    known = instance_status(directory)
    record, running = known.record, known.state is EndpointState.RUNNING
    endpoint_id = directory.endpoint_id()
    return Seen(
        name=endpoint.name,
        kind="manager" if endpoint.load()[1] else "endpoint",
        endpoint_id=str(endpoint_id) if endpoint_id else None,
        state=known.state,
        address=record.status_address if record and running and not known.elsewhere else None,
        host=known.elsewhere,
        pid=record.pid if record and running else None,
        since=record.since if record else None,
        text=f"its last life ended: {end}" if not running and (end := _end(directory.path)) else "",
    )


def _end(directory: Path) -> str | None:
    try:
        return last_end(directory)
    except Problem as problem:
        return f"that is not known, as {problem.message}"
