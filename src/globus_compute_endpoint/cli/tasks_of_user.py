# SPDX-License-Identifier: Apache-2.0
"""``_tasks``: what root has a user's process tell of a journal; not for people."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from globus_compute_endpoint.user_endpoint.inspection import STATES, StateName, rows, tasks_in

__all__ = ["tasks_of_user"]


@click.command("_tasks", hidden=True)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("first", type=click.Choice(STATES))
@click.argument("last", type=click.Choice(STATES))
@click.argument("limit", type=int)
def tasks_of_user(directory: Path, first: str, last: str, limit: int) -> None:
    """Print tasks of a journal as JSON."""
    found = tasks_in(directory, cast(StateName, first), cast(StateName, last), limit)
    click.echo(rows.dump_json(found))
