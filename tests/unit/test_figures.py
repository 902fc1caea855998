# SPDX-License-Identifier: Apache-2.0
"""Reports fit their frame whatever is in them, and hostile ones stay harmless."""

from __future__ import annotations

import asyncio
import json
import socket
from uuid import UUID

import pytest
from pydantic import ValidationError

from globus_compute_endpoint.cli.status_text import Seen, document, show
from globus_compute_endpoint.figures import (
    JOBS_SHOWN,
    STATUS_LIMIT,
    EngineFigures,
    JobFigures,
    Report,
    State,
)
from globus_compute_endpoint.manager.control import Control as ManagersControl
from globus_compute_endpoint.overview import Overview, UserEndpointView
from globus_compute_endpoint.user_endpoint.control import Control
from globus_compute_endpoint.user_endpoint.instance import EndpointState

ID = UUID(int=7)
BATCH = EngineFigures(
    engine_type="GlobusComputeEngine",
    total_workers=8,
    idle_workers=1,
    pending_tasks=2,
    blocks_running=1,
    blocks_pending=1,
    max_blocks=5,
    nodes_per_block=3,
    jobs=(
        JobFigures(
            job_id="17",
            block="0",
            state="RUNNING",
            since=1795412263,
            pools=6,
            workers=8,
            tasks=7,
            hosts=("n1", "n2", "n3", "n4"),
        ),
        JobFigures(job_id="18", block="1", state="PENDING", since=1795412300),
    ),
    jobs_not_shown=1,
)


def report(engine: EngineFigures, state: State = "running") -> Report:
    return Report(state=state, pid=1, since=1795412263, waiting_tasks=40, engine=engine)


def job(text: str) -> JobFigures:
    return JobFigures(job_id=text, block=text, state=text, since=1, hosts=(text,) * 4)


def heard(told: Report) -> Report | None:
    """What a manager hears when it asks a user endpoint."""

    async def talk() -> Report | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        endpoint = Control(theirs)
        endpoint.start(lambda _: None, lambda _: told)
        manager = ManagersControl(ID, ours)
        try:
            return await manager.report(5)
        finally:
            endpoint.close()
            manager.close()

    return asyncio.run(talk())


def test_a_report_reaches_the_manager_whole() -> None:
    assert heard(report(BATCH)) == report(BATCH)


def test_one_which_is_too_long_comes_without_its_jobs() -> None:
    engine = EngineFigures(jobs=(job("ü" * 64),) * JOBS_SHOWN, jobs_not_shown=9)
    told = report(engine)
    assert len(json.dumps(told.model_dump())) > STATUS_LIMIT
    assert heard(told) == told.without_jobs()
    assert told.without_jobs().engine.jobs_not_shown == JOBS_SHOWN + 9


def test_one_who_does_not_answer_is_asked_once_and_waited_for_no_longer_than_said() -> None:
    async def talk() -> list[bytes]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        manager = ManagersControl(ID, ours)
        assert await manager.report(0.05) is None
        assert await manager.report(0.05) is None
        asked = [theirs.recv(100)]
        theirs.settimeout(0.1)
        with pytest.raises(TimeoutError):
            theirs.recv(100)
        waiting = asyncio.create_task(manager.report(5))
        await asyncio.sleep(0)
        theirs.close()
        assert await waiting is None
        return asked

    assert asyncio.run(talk()) == [b'{"type":"report"}']


def test_one_who_has_hung_up_unnoticed_does_not_answer() -> None:
    async def talk() -> Report | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        manager = ManagersControl(ID, ours)
        theirs.close()  # the event loop has not seen it yet
        return await manager.report(5)

    assert asyncio.run(talk()) is None


@pytest.mark.parametrize(
    "told",
    [
        {"engine": {"jobs": [job("x").model_dump()] * (JOBS_SHOWN + 1)}},
        {"engine": {"total_workers": -1}},
        {"since": 10**12},
        {"state": "\x1b[2J"},
    ],
)
def test_what_is_out_of_bounds_is_no_report(told: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Report.model_validate({"state": "running", "pid": 1, "since": 1, **told})


def test_texts_are_cut_and_cannot_steer_a_terminal() -> None:
    shown = job("\x1b[31mred" + "x" * 99).job_id
    assert shown.startswith("?[31mred")
    assert len(shown) == 64


def seen(**more: object) -> Seen:
    view = UserEndpointView(
        endpoint_id=ID,
        uid=0,
        pid=4711,
        state="running",
        identity=UUID(int=8),
        unit="x.scope",
        memory=3 << 20,
        processes=2,
        report=report(BATCH),
    )
    silent = UserEndpointView(endpoint_id=UUID(int=9), uid=2**31 - 7, pid=1, state="running")
    overview = Overview(text="ready; user endpoints running: 2", user_endpoints=(view, silent))
    known = {"name": "mine", "kind": "manager", "endpoint_id": str(ID), "overview": overview}
    return Seen(**{**known, "state": EndpointState.RUNNING, **more})  # type: ignore[arg-type]  # keywords


def test_people_are_told_of_jobs_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    show(seen())
    told = capsys.readouterr().out
    for each in (
        f"mine ({ID}): Running\n  ready; user endpoints running: 2\n",
        f"User endpoint {ID}: running, as root (uid 0), for identity {UUID(int=8)}\n",
        "  process 4711, in x.scope, since ",
        ", 3 MiB, 2 processes\n",
        "  last heartbeat: none\n  tasks: 7 running, 42 queued, 0 done\n",
        "  GlobusComputeEngine, workers: 8, 1 of them idle\n",
        "  blocks: 1 running, 1 pending, 5 at most, of 3 nodes\n",
        "n1 n2 n3 n4 + 2",
        "  and 1 more job\n",
        f"User endpoint {UUID(int=9)}: does not answer (last said: running), as 2147483641 (",
    ):
        assert each in told
    assert "| 18  | 1     | PENDING |" in told


def test_json_has_times_for_programs() -> None:
    first, second = document(seen())["user_endpoints"]
    assert first["since"] == first["engine"]["jobs"][0]["since"] == "2026-11-23T05:37:43+00:00"
    assert (first["queued_tasks"], first["running_tasks"]) == (42, 7)
    assert (first["answers"], second["answers"], second["state"]) == (True, False, "running")
    json.dumps(document(seen()))


def test_one_of_another_host(capsys: pytest.CaptureFixture[str]) -> None:
    show(seen(host="login2", overview=None))
    assert f"mine ({ID}): Running on login2, where more is known\n" in capsys.readouterr().out
