# SPDX-License-Identifier: Apache-2.0
"""``tasks``: what is in the task journals of user endpoints."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast
from uuid import UUID

import click
from pydantic import ValidationError

from globus_compute_endpoint.cli.endpoints import endpoint_named
from globus_compute_endpoint.cli.output import print_json, print_table
from globus_compute_endpoint.cli.profiles import user_directory
from globus_compute_endpoint.endpoint_json import read_endpoint_id
from globus_compute_endpoint.host.mounts import is_mount_point
from globus_compute_endpoint.host.paths import (
    endpoint_paths,
    state_directories,
    state_directory,
    system_endpoints,
)
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.inspection import (
    STATES,
    StateName,
    TaskRow,
    rows,
    tasks_in,
)

__all__ = ["count_waiting", "tasks"]

_TIMEOUT = 60.0
_LISTED = 1000
_LONGEST = 64 << 20  # bytes that a journal's owner may say
_UEP = re.compile(r"uep\.(?P<manager>[0-9a-f-]{36})\.(?P<own>[0-9a-f-]{36})")


@dataclass(frozen=True)
class _Kept:
    """A state directory. ``names``: by which its endpoint is asked for; ``uid``: whose it is."""

    names: tuple[str, ...]
    path: Path
    uid: int


@click.command("tasks")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--state", type=click.Choice(STATES), help="Only tasks in this state.")
@click.option("--all", "everything", is_flag=True, help="Also those which are done.")
@click.option(
    "--limit", type=click.IntRange(1), default=_LISTED, help="How many of an endpoint (1000)."
)
@click.pass_obj
def tasks(  # noqa: PLR0917  (click passes them by name)
    obj: dict[str, Path | None],
    name: str | None,
    as_json: bool,
    state: str | None,
    everything: bool,
    limit: int,
) -> None:
    """List the tasks in the journal of the endpoint NAME, by default of all that are here.

    NAME may be the id of a manager's user endpoint, too. Root sees those of the system.
    """
    first = cast(StateName, state or "received")
    last = cast(StateName, state or ("confirmed" if everything else "finished"))
    found: list[tuple[str, TaskRow]] = []
    problems: list[Problem] = []
    for kept in _asked_for(name, system=obj["config_dir"] is None):
        try:
            found += [(kept.names[0], task) for task in _read(kept, first, last, limit)]
        except Problem as problem:
            problems.append(problem)
    if as_json:
        print_json([{"endpoint": each, **task.model_dump(mode="json")} for each, task in found])
    else:
        _print(found)
    if problems:
        raise problems[0]


def count_waiting(name: str, *, system: bool) -> int | None:
    """How many tasks of an endpoint which does not run are not done; None: it cannot be told.

    Of each journal, no more are counted than ``tasks`` lists.
    """
    try:
        kept = _asked_for(name, system=system)
        return sum(len(_read(each, "received", "started", _LISTED)) for each in kept)
    except Problem:
        return None


def _print(found: list[tuple[str, TaskRow]]) -> None:
    print_table(
        ["Endpoint", "Task ID", "State", "Received", "Started", "Attempts", "Bytes"],
        [
            [
                endpoint,
                task.task_id,
                task.state,
                _shown(task.received),
                _shown(task.started),
                task.attempts,
                task.size,
            ]
            for endpoint, task in found
        ],
    )


def _shown(time: datetime | None) -> str:
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _asked_for(name: str | None, *, system: bool) -> list[_Kept]:
    found = list(_of_user()) if user_directory().is_dir() else []
    if system and os.geteuid() == 0:
        found += _of_system()
    if name is None:
        return found
    asked = [kept for kept in found if name in kept.names]
    if not asked and not _is_system_endpoint(name):
        endpoint_named(name)  # an endpoint without a journal has no tasks; one that is none is told
    return asked


def _of_user() -> Iterator[_Kept]:
    """This user's own, also those which a manager of the system keeps on local disk."""
    managers = {}
    for path in sorted(user_directory().glob("*/endpoint.json")):
        managers[str(read_endpoint_id(path))] = path.parent.name
    for path in sorted(user_directory().iterdir()):
        if not (ids := _UEP.fullmatch(path.name)):
            yield _Kept((path.name,), path, os.geteuid())
            continue
        names = (path.name, ids["own"], managers.get(ids["manager"], path.name))
        for each in (path, state_directory(os.geteuid(), UUID(ids["own"]))):
            yield _Kept(names, each, os.geteuid())


def _of_system() -> Iterator[_Kept]:
    """Those of all users, for root."""
    managers: dict[str, str] = {}
    for paths in system_endpoints():
        if paths.starts.is_dir():
            managers |= {record.name: paths.name for record in paths.starts.iterdir()}
    for uid, path in state_directories():
        yield _Kept((path.name, managers.get(path.name, path.name)), path, uid)


def _is_system_endpoint(name: str) -> bool:
    return os.geteuid() == 0 and endpoint_paths(name).config_yaml.is_file()


def _read(kept: _Kept, first: StateName, last: StateName, limit: int) -> list[TaskRow]:
    if kept.uid == os.geteuid():
        return tasks_in(kept.path, first, last, limit)
    return _read_as(kept, first, last, limit)


@contextlib.contextmanager
def _bounded(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End it with this, or after a while: its owner is the user, who could have it go on and on."""
    timer = threading.Timer(_TIMEOUT, child.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        child.kill()


def _read_as(kept: _Kept, first: StateName, last: StateName, limit: int) -> list[TaskRow]:
    """Have a process of the owner's read it: the file is what they have made of it.

    That process has no terminal of ours, and what it says is not taken for granted.
    """
    command = [sys.executable, "-P", "-m", "globus_compute_endpoint", "_tasks", str(kept.path)]
    inherited = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    try:
        if is_mount_point(kept.path):  # whose server may never answer
            raise OSError(errno.EXDEV, "something is mounted there")
        with (
            subprocess.Popen(
                [*command, first, last, str(limit)],
                user=kept.uid,
                group=kept.path.lstat().st_gid,
                extra_groups=[],
                env=inherited,
                cwd="/",
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as child,
            _bounded(child),
        ):
            assert child.stdout is not None
            return rows.validate_json(child.stdout.read(_LONGEST))
    except (subprocess.SubprocessError, ValidationError, OSError) as error:
        raise Problem(
            "JOURNAL_UNREADABLE",
            f"the task journal in {kept.path} cannot be read",
            f"look at it as its owner, uid {kept.uid}",
            ExitStatus.DATA,
        ) from error
