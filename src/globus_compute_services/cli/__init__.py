# SPDX-License-Identifier: Apache-2.0
"""``globus-compute-services``: the command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.settings import CONFIG_FILE

__all__ = ["main"]


# Command -> (module of this package, attribute). Imported when it is called: `connect` is for
# laptops, which have no use for the rest, and not all that it needs.
COMMANDS = {
    "account": ("accounts", "account"),
    "client": ("clients", "client"),
    "connect": ("connect", "connect"),
    "env": ("running", "env"),
    "group": ("groups", "group"),
    "init": ("initialize", "init"),
    "serve": ("running", "serve"),
}


class _Commands(click.Group):
    """A group which imports the module of a command only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's)
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, attribute = entry
        try:
            command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        except ModuleNotFoundError as error:
            extra = "connect" if cmd_name == "connect" else "services"
            raise Problem(
                f"`{cmd_name}` needs the module {error.name}, which is not installed",
                f"install the package with its extra, globus-compute-endpoint[{extra}]",
                ExitStatus.UNAVAILABLE,
            ) from error
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
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


def main() -> None:
    """Entry point: a Problem becomes one line, its hint another, and its exit status."""
    try:
        cli(prog_name="globus-compute-services")
    except Problem as problem:
        print(f"Error: {problem.message}", file=sys.stderr)
        if problem.hint:
            print(f"Hint: {problem.hint}", file=sys.stderr)
        sys.exit(int(problem.exit_status))
