# SPDX-License-Identifier: Apache-2.0
"""``globus-compute-services``: the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from globus_compute_services.cli.accounts import account
from globus_compute_services.cli.clients import client
from globus_compute_services.cli.groups import group
from globus_compute_services.cli.initialize import init
from globus_compute_services.cli.running import env, serve
from globus_compute_services.problem import Problem
from globus_compute_services.settings import CONFIG_FILE

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=CONFIG_FILE,
    show_default=True,
    help="The configuration file.",
)
@click.pass_context
def cli(context: click.Context, config: Path) -> None:
    """Globus Compute web services of your own: REST, sign-in and queues for endpoints."""
    context.obj = config


for command in (init, account, client, group, env, serve):
    cli.add_command(command)


def main() -> None:
    """Entry point: a Problem becomes one line, its hint another, and its exit status."""
    try:
        cli(prog_name="globus-compute-services")
    except Problem as problem:
        print(f"Error: {problem.message}", file=sys.stderr)
        if problem.hint:
            print(f"Hint: {problem.hint}", file=sys.stderr)
        sys.exit(int(problem.exit_status))
