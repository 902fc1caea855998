# SPDX-License-Identifier: Apache-2.0
"""How ``status`` tells what it has seen: in words and tables, or as JSON."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from globus_compute_endpoint.cli.output import print_table
from globus_compute_endpoint.figures import EngineFigures, JobFigures, Report
from globus_compute_endpoint.overview import Overview, UserEndpointView
from globus_compute_endpoint.user_endpoint.instance import EndpointState

__all__ = ["Seen", "document", "show"]

_GOOD = ("Running", "running")
_BAD = ("Disconnected", "failed")


@dataclass(frozen=True)
class Seen:
    """An endpoint as a whole. ``address`` is where its process can be asked, if it runs here.

    ``host`` is another one, where it runs. ``waiting_tasks`` are those in the journals of an
    endpoint which does not run.
    """

    name: str
    kind: Literal["endpoint", "manager", "system"]
    endpoint_id: str | None
    state: EndpointState
    address: Path | str | None = None
    host: str | None = None
    unit: str | None = None
    pid: int | None = None
    since: datetime | None = None
    text: str = ""
    waiting_tasks: int | None = None
    overview: Overview | None = None


def document(seen: Seen) -> dict[str, Any]:
    """Return what ``--json`` prints; globus-compute-endpoint(1) says what it means."""
    return {
        "name": seen.name,
        "kind": seen.kind,
        "endpoint_id": seen.endpoint_id,
        "state": seen.state,
        "host": seen.host,
        "unit": seen.unit,
        "pid": seen.pid,
        "since": _iso(seen.since),
        "text": _text(seen),
        "waiting_tasks": seen.waiting_tasks,
        "user_endpoints": [_view_document(each) for each in _views(seen)],
    }


def show(seen: Seen) -> None:
    """Print it for people, with colours on a terminal."""
    where = f" on {seen.host}, where more is known" if seen.host else ""
    since = f" since {_local(seen.since)}" if seen.since else ""
    who = f" ({seen.endpoint_id})" if seen.endpoint_id else ""
    click.echo(f"{seen.name}{who}: {_painted(seen.state)}{since}{where}")
    if text := _text(seen):
        click.echo(f"  {text}")
    if seen.waiting_tasks:
        click.echo(f"  tasks which wait for its next start: {seen.waiting_tasks}")
    for view in _views(seen):
        _show_view(view, alone=seen.kind == "endpoint")


def _views(seen: Seen) -> tuple[UserEndpointView, ...]:
    return seen.overview.user_endpoints if seen.overview else ()


def _text(seen: Seen) -> str:
    return seen.overview.text if seen.overview and seen.overview.text else seen.text


def _show_view(view: UserEndpointView, *, alone: bool) -> None:
    if not alone:
        identity = f", for identity {view.identity}" if view.identity else ""
        click.echo()
        click.echo(
            f"User endpoint {view.endpoint_id}: {_painted(_state(view))},"
            f" as {_user(view.uid)} (uid {view.uid}){identity}"
        )
    if process := ", ".join(_process(view)):
        click.echo(f"  {process}")
    if view.report is not None:
        _show_report(view.report)


def _process(view: UserEndpointView) -> Iterator[str]:
    yield f"process {view.pid}"
    if view.unit:
        yield f"in {view.unit}"
    if view.report:
        yield f"since {_local(_time(view.report.since))}"
    if view.memory is not None:
        yield f"{view.memory / 2**20:.0f} MiB"
    if view.processes is not None:
        yield f"{view.processes} processes"


def _show_report(report: Report) -> None:
    engine = report.engine
    beat = "none" if report.heartbeat is None else _local(_time(report.heartbeat))
    click.echo(f"  last heartbeat: {beat}")
    if report.journal_trouble:
        click.secho(f"  its journal is in trouble: {report.journal_trouble}", fg="red")
    click.echo(
        f"  tasks: {report.running_tasks} running, {report.queued_tasks} queued,"
        f" {report.done_tasks} done"
    )
    workers = f"workers: {engine.total_workers}, {engine.idle_workers} of them idle"
    click.echo(f"  {engine.engine_type}, {workers}")
    if engine.blocks_running is not None:
        click.echo(
            f"  blocks: {engine.blocks_running} running, {engine.blocks_pending} pending,"
            f" {engine.max_blocks} at most, of {_counted(engine.nodes_per_block, 'node')}"
        )
        _show_jobs(engine)


def _show_jobs(engine: EngineFigures) -> None:
    if engine.jobs:
        print_table(
            ["Job", "Block", "State", "Since", "Hosts", "Workers", "Tasks"],
            [
                [
                    job.job_id,
                    job.block,
                    job.state,
                    _local(_time(job.since)),
                    _hosts(job),
                    job.workers,
                    job.tasks,
                ]
                for job in engine.jobs
            ],
        )
    if engine.jobs_not_shown:
        click.echo(f"  and {_counted(engine.jobs_not_shown, 'more job')}")


def _hosts(job: JobFigures) -> str:
    more = f" + {job.pools - len(job.hosts)}" if job.pools > len(job.hosts) > 0 else ""
    return f"{' '.join(job.hosts)}{more}"


def _view_document(view: UserEndpointView) -> dict[str, Any]:
    report = view.report
    shown: dict[str, Any] = {
        "endpoint_id": str(view.endpoint_id),
        "uid": view.uid,
        "local_user": _user(view.uid),
        "identity": str(view.identity) if view.identity else None,
        "pid": view.pid,
        "unit": view.unit,
        "memory": view.memory,
        "processes": view.processes,
        "state": report.state if report else view.state,
        "answers": report is not None,
    }
    if report is None:
        return shown
    return shown | {
        "since": _iso(_time(report.since)),
        "heartbeat": None if report.heartbeat is None else _iso(_time(report.heartbeat)),
        "outstanding_tasks": report.outstanding_tasks,
        "running_tasks": report.running_tasks,
        "queued_tasks": report.queued_tasks,
        "done_tasks": report.done_tasks,
        "journal_trouble": report.journal_trouble,
        "engine": _engine_document(report.engine),
    }


def _engine_document(engine: EngineFigures) -> dict[str, Any]:
    shown = engine.model_dump(mode="json", exclude={"pending_tasks"})
    for job in shown["jobs"]:
        job["since"] = _iso(_time(job["since"]))
    return shown


def _state(view: UserEndpointView) -> str:
    return view.report.state if view.report else f"does not answer (last said: {view.state})"


def _painted(state: str) -> str:
    color = "green" if state in _GOOD else "red" if state in _BAD else "yellow"
    return click.style(state, fg=color)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _local(time: datetime | None) -> str:
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
