# SPDX-License-Identifier: Apache-2.0
"""``diagnostic``: check what endpoints need, and collect what helps to help."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from globus_compute_endpoint.cli.output import print_json, print_table
from globus_compute_endpoint.cli.profiles import user_directory
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.diagnostics.addresses import addresses_of
from globus_compute_endpoint.diagnostics.archive import write_archive
from globus_compute_endpoint.diagnostics.checks import Check, check_services
from globus_compute_endpoint.diagnostics.commands import machine, output_of
from globus_compute_endpoint.diagnostics.subjects import Subject, system_subject, user_subject
from globus_compute_endpoint.host.paths import endpoint_paths, system_endpoints
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory

__all__ = ["diagnostic"]

_RESULTS = {True: "ok", False: "FAILED", None: "-"}


@click.command()
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the archive goes; by default, a name with host and time in this directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def diagnostic(obj: dict[str, Any], name: str | None, output: Path | None, as_json: bool) -> None:
    """Check what endpoints need, and collect an archive to send to whoever helps.

    Without NAME, of all endpoints: this user's, and as root those of the system. The archive has
    configuration, logs and versions; passwords and secrets are taken out. Exits with 75 if a
    check has failed.
    """
    subjects = _chosen(name, whole_system=obj["config_dir"] is None)
    checks = list(_checks(subjects))
    path = output or Path(_default_name())
    write_archive(path, _members(subjects, checks))
    failed = [check for check in checks if check.ok is False]
    if as_json:
        print_json({"archive": str(path), "checks": [asdict(check) for check in checks]})
    else:
        _show(checks, failed)
        click.echo(f"\nCollected in {path}. Look into it before you send it to anyone.")
    if failed:
        sys.exit(int(ExitStatus.TEMPORARY))


def _show(checks: Sequence[Check], failed: Sequence[Check]) -> None:
    rows = [(check.name, _RESULTS[check.ok], check.detail) for check in checks]
    print_table(("Check", "Result", "Detail"), rows)
    for check in failed:
        click.echo(f"{check.name}: {check.hint}")


def _chosen(name: str | None, *, whole_system: bool) -> list[Subject]:
    as_root = os.geteuid() == 0 and whole_system
    if name is None:
        found = sorted(user_directory().glob("*/config.yaml"))
        subjects = [user_subject(EndpointDirectory(each.parent)) for each in found]
        return subjects + [system_subject(each) for each in system_endpoints() if as_root]
    paths = endpoint_paths(name)
    directory = EndpointDirectory(user_directory() / name)
    if directory.config.is_file():
        return [user_subject(directory)]
    if as_root and paths.config_yaml.is_file():
        return [system_subject(paths)]
    raise Problem(
        "NO_SUCH_ENDPOINT",
        f"there is no endpoint {name}: {directory.config} does not exist",
        "see: globus-compute-endpoint list",
        ExitStatus.CONFIGURATION,
    )


def _checks(subjects: Sequence[Subject]) -> Iterator[Check]:
    for subject in subjects:
        yield subject.check_configuration()
    # Endpoints of one person mostly belong to the same services.
    needed = {subject.addresses(): None for subject in subjects}
    for addresses in needed or [addresses_of(CommonConfig())]:
        yield from check_services(addresses)


def _members(subjects: Sequence[Subject], checks: Sequence[Check]) -> Iterator[tuple[str, str]]:
    yield "checks.json", json.dumps([asdict(check) for check in checks], indent=2) + "\n"
    for subject in subjects:
        for member, text in subject.members():
            yield f"endpoints/{subject.name}/{member}", text
    ours = (sys.executable, "-P", "-m", "globus_compute_endpoint")
    yield "list.txt", output_of(*ours, "list", "--json")
    named = [subjects[0].name] if len(subjects) == 1 else []
    yield "whoami.txt", output_of(*ours, "whoami", "--json", *named)
    for member, text in machine():
        yield f"machine/{member}", text


def _default_name() -> str:
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"globus-compute-diagnostic-{platform.node()}-{when}.tar.gz"
