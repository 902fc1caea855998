# SPDX-License-Identifier: Apache-2.0
"""The command line. Commands live in modules of their own, imported when they are called."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from setproctitle import getproctitle

from globus_compute_endpoint import __version__
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["cli", "main"]

# Command name -> (module of this package, attribute). A name with an underscore is for units
# and other programs, and not listed.
COMMANDS = {
    "_gateway": ("services", "gateway"),
    "_manager": ("services", "manager"),
    "_reload": ("reload", "reload"),
    "_spawner": ("services", "spawner"),
    "_serve": ("running", "serve_in_background"),
    "_tasks": ("tasks_of_user", "tasks_of_user"),
    "_start-user-endpoint": ("user_endpoint", "start_user_endpoint"),
    "configure": ("configure", "configure"),
    "render-user-config": ("render", "render_user_config"),
    "delete": ("delete", "delete"),
    "disable-on-boot": ("boot", "disable_on_boot"),
    "enable-on-boot": ("boot", "enable_on_boot"),
    "diagnostic": ("diagnostic", "diagnostic"),
    "list": ("listing", "list_endpoints"),
    "login": ("login", "login"),
    "logout": ("login", "logout"),
    "restart": ("stop", "restart"),
    "start": ("start", "start"),
    "status": ("status", "status"),
    "stop": ("stop", "stop"),
    "tasks": ("tasks", "tasks"),
    "version": ("version", "version"),
    "whoami": ("whoami", "whoami"),
}


class _Commands(click.Group):
    """A group which imports the module of a command only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's)
        return sorted(name for name in COMMANDS if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, attribute = entry
        command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Log more, and show tracebacks.")
@click.option(
    "-c",
    "--config-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where endpoints are kept, instead of ~/.globus_compute.",
)
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, debug: bool, config_dir: Path | None) -> None:
    """Run functions of Globus Compute users on this machine or cluster."""
    ctx.obj = {"debug": debug, "config_dir": config_dir}
    directory = config_dir or os.environ.get("GLOBUS_COMPUTE_USER_DIR")
    if directory:
        getproctitle()  # finds the title's place, which it cannot once the environment has moved
        # The SDK, which keeps its tokens there too, knows no other way. Absolute, since engines
        # and their workers run elsewhere.
        os.environ["GLOBUS_COMPUTE_USER_DIR"] = str(Path(directory).absolute())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, tell in two lines what went wrong, and exit."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = cli.main(argv, prog_name="globus-compute-endpoint", standalone_mode=False)
    except Problem as problem:
        if "--debug" in argv:
            raise
        status = report(problem)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Aborted.", err=True)
        status = 1
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except Exception as error:
        if "--debug" in argv:
            raise
        status = report(_of_file(error) or _internal(error))
    sys.exit(status if isinstance(status, int) else 0)


def report(problem: Problem) -> int:
    """Print a problem on standard error and return its exit status."""
    click.echo(f"Error: {problem.message}", err=True)
    if problem.hint:
        click.echo(f"  {problem.hint}", err=True)
    return int(problem.exit_status)


def _of_file(error: Exception) -> Problem | None:
    """A file that is refused to us, or a disk that is full, wherever that was met."""
    if not isinstance(error, OSError):
        return None
    if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return Problem(
        "FILE_INACCESSIBLE",
        f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror),
        "check the permissions of that path, and that the disk and quota are not full",
        ExitStatus.CANNOT_CREATE,
    )


def _internal(error: Exception) -> Problem:
    return Problem(
        "INTERNAL",
        f"{type(error).__name__}: {error}",
        "this is a defect; run the command again with --debug and report what it says",
        ExitStatus.INTERNAL,
    )
