# SPDX-License-Identifier: Apache-2.0
"""What a supervisor does about user endpoints which end: here, processes which only sleep."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from globus_compute_endpoint.config.manager import ManagerConfig, ManagerSettings
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager import revival
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.ends import End, Evidence, judge
from globus_compute_endpoint.manager.hosting import Approved, Held, OnEnd, Remnant, UserEndpoint
from globus_compute_endpoint.manager.launching import Past
from globus_compute_endpoint.manager.protocol import Identity, ProblemFields, Start
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.manager.supervisor import Supervisor
from globus_compute_endpoint.problem import ExitStatus, Problem

ID = UUID(int=7)
SOMEBODY = Identity(sub=UUID(int=1), username="a@here")
# Nobody is started again at once because of a command which came just before its end.
SETTINGS = ManagerSettings(
    ManagerConfig(mu_child_ep_grace_period_s=0, finish_up_s=0), "", None, {}, {}
)
FINAL = Problem("LOCAL_USER_NOT_ALLOWED", "no", exit_status=ExitStatus.NO_PERMISSION)
PASSING = Problem("LOCAL_USER_MISSING", "not yet", exit_status=ExitStatus.NO_PERMISSION)


def record(blob: bytes) -> StartRecord:
    identities = (SOMEBODY,)
    start = Start(
        number=1, endpoint_id=ID, name="uep.a.b", effective_identity=ID, identities=identities
    )
    return StartRecord(start, blob)


class Sleeper(UserEndpoint):
    """What it says, the test says for it."""

    def __init__(self, record: StartRecord, uid: int, on_end: OnEnd) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = self.process.pid
        control = Control(record.start.endpoint_id, ours)
        super().__init__(record, uid, Held(pid, os.pidfd_open(pid), control), on_end)

    def say(self, **status: object) -> None:
        self.theirs.send(json.dumps({"type": "status", **status}).encode())

    async def ask_to_end(self) -> None:
        await self.kill()

    async def terminate(self) -> None:
        self.process.terminate()

    async def kill(self) -> None:
        self.process.kill()

    async def clean_up(self) -> End:
        self.theirs.close()
        assert self.control
        await self.control.last_state()
        return judge(Evidence(wait_status=-self.process.wait()))


class Sleepers:
    """A :class:`Hosting`, where every user endpoint leaves work."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[Sleeper] = asyncio.Queue()
        self.uid = 1000
        self.refusal: Problem | None = None

    async def authorize(self, record: StartRecord) -> Approved:
        if self.refusal:
            raise self.refusal
        user = LocalUser(
            uname="a",
            uid=self.uid,
            gid=1000,
            groups=(),
            group_names=(),
            gecos="",
            home="/",
            shell="",
        )
        return Approved(record, SOMEBODY, user)

    async def start(
        self, approved: Approved, manager_id: UUID, on_end: OnEnd, past: Past
    ) -> UserEndpoint:
        sleeper = Sleeper(approved.record, approved.user.uid, on_end)
        self.started.put_nowait(sleeper)
        return sleeper

    async def next(self) -> Sleeper:
        async with asyncio.timeout(20):
            return await self.started.get()

    async def remains(self, record: StartRecord) -> Remnant:
        return Remnant(work=True)

    async def boot(self) -> str:
        return "this"

    def left_in(self, record: StartRecord) -> str:
        return "nowhere"


Story = Callable[[Supervisor, Sleepers, StartRecords], Awaitable[None]]


@pytest.fixture
def told() -> list[ProblemFields]:
    return []


@pytest.fixture
def tell(tmp_path: Path, told: list[ProblemFields]) -> Callable[[Story], None]:
    async def go(story: Story) -> None:
        hosting, records = Sleepers(), StartRecords(tmp_path)
        supervisor = Supervisor(
            SETTINGS, records, hosting, lambda _id, problem, _blob: told.append(problem)
        )
        supervisor.registered(ID)
        try:
            await story(supervisor, hosting, records)
        finally:
            await supervisor.stop_all()

    return lambda story: asyncio.run(go(story))


async def die(supervisor: Supervisor, sleeper: Sleeper) -> None:
    """Return once its return is planned."""
    sleeper.process.kill()
    async with asyncio.timeout(10):
        while "to be started again" not in supervisor.summary:  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("passing", [False, True])
def test_a_command_for_one_on_its_way_back_is_on_disk_before_it_is_answered(
    tell: Callable[[Story], None], passing: bool
) -> None:
    async def story(supervisor: Supervisor, hosting: Sleepers, records: StartRecords) -> None:
        await supervisor.start(record(b"old"))
        await die(supervisor, await hosting.next())
        before = records.read(ID)
        assert before and before.blob == b"old"
        if passing:  # what is in the way now may not be when it is started
            hosting.refusal = PASSING
        await supervisor.start(record(b"new"))
        if not passing:
            assert records.read(ID) == replace(before, blob=b"new")
        hosting.refusal = None
        again = await hosting.next()
        assert again.record == replace(before, blob=b"new")

    tell(story)


@pytest.mark.parametrize("refused", ["by the rules", "as another user"])
def test_a_command_which_is_refused_takes_nothing_from_one_on_its_way_back(
    tell: Callable[[Story], None], told: list[ProblemFields], refused: str
) -> None:
    async def story(supervisor: Supervisor, hosting: Sleepers, records: StartRecords) -> None:
        await supervisor.start(record(b"old"))
        await die(supervisor, await hosting.next())
        if refused == "by the rules":
            hosting.refusal = FINAL
        else:
            hosting.uid = 1001
        with pytest.raises(Problem) as caught:
            await supervisor.start(record(b"new"))
        assert caught.value.code in (FINAL.code, "USER_ENDPOINT_OF_ANOTHER")
        kept = records.read(ID)
        assert kept and kept.blob == b"old"
        hosting.refusal, hosting.uid = None, 1000
        again = await hosting.next()
        assert again.record == kept
        assert told == []

    tell(story)


@pytest.mark.parametrize("progress", [False, True])
def test_one_which_dies_ten_times_is_given_up_unless_tasks_end(
    tell: Callable[[Story], None],
    told: list[ProblemFields],
    monkeypatch: pytest.MonkeyPatch,
    progress: bool,
) -> None:
    monkeypatch.setattr(revival, "_FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(revival, "_LONGEST_DELAY_S", 0.01)

    async def story(supervisor: Supervisor, hosting: Sleepers, records: StartRecords) -> None:
        await supervisor.start(record(b""))
        for _ in range(10):
            sleeper = await hosting.next()
            sleeper.say(state="running")
            if progress:
                sleeper.say(state="running", progress=True)
            assert not told
            sleeper.process.kill()
        if progress:
            await hosting.next()
            return
        async with asyncio.timeout(10):
            while not told:  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0.01)
        assert "10 times within an hour" in told[0].message
        assert "SIGKILL" in told[0].message
        assert records.read(ID) is None
        assert records.was_given_up(ID)

    tell(story)
