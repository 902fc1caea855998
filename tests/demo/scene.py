# SPDX-License-Identifier: Apache-2.0
"""The demo's course: set up a site, be its researchers, look at what the kernel says meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.checks import Mismatch, expect, table
from demo.kernel import Process, look_at
from system.hosts import TESTHOST
from system.site import (
    ENDPOINT_MEMORY,
    ENGINES,
    MIB,
    SDK_TRUST,
    USER_MEMORY,
    Client,
    Machines,
    Site,
)

NAME = "demo"
RESEARCHERS = ("alice", "bob")
PROGRAM = Path(__file__).parent / "researcher.py"
PROGRAMS = "/opt/demo"
PIPES = "/run/demo"
# Six user endpoints start at once, on two cores.
START_PATIENCE = 90.0
# The least that the journal has of a task: received, started, finished, result confirmed.
JOURNAL_LINES = 4


@dataclass(frozen=True)
class Cell:
    """One researcher on one engine."""

    researcher: str
    engine: str

    @property
    def started(self) -> str:
        return f"{PIPES}/{self.researcher}-{self.engine}-started"

    @property
    def release(self) -> str:
        return f"{PIPES}/{self.researcher}-{self.engine}-release"


@dataclass(frozen=True)
class Sight:
    """What the kernel said while a cell's function ran, and when that was."""

    process: Process
    at: float


CELLS = [Cell(researcher, engine) for researcher in RESEARCHERS for engine in ENGINES]

# What else a researcher does: title, deed, what it needs to be told, what must come of it.
DEEDS: list[tuple[str, str, dict[str, str], Callable[[str], bool]]] = [
    ("Client.run", "run_with_client", {}, lambda result: result == "5"),
    ("register_source_code", "run_source_code", {}, lambda result: result == "42"),
    (
        "ShellFunction",
        "run_shell",
        {"engine": "ProcessPoolEngine"},
        lambda result: result == "hello from alice",
    ),
    (
        "a function that raises",
        "run_failing",
        {"engine": "ThreadPoolEngine"},
        lambda result: "a mistake of the researcher's own" in result,
    ),
    (
        "get_worker_hardware_details",
        "report_hardware",
        {},
        lambda result: "python" in result.lower(),
    ),
]


class Scene:
    """One performance of the demo on three machines."""

    def __init__(self, machines: Machines, sdk: Path, tell: Callable[[str], None]) -> None:
        self.machines = machines
        self.laptop = machines.laptop
        self.host = machines.login_node
        self.sdk = sdk
        self.tell = tell
        self.clients: dict[str, Client] = {}
        self.uids: dict[str, int] = {}
        self.endpoint_id = ""

    def play(self) -> None:
        """Do it all. Raises Mismatch at the first cell which is not as it must be."""
        self.set_up()
        task_id, scope = self.matrix()
        self.deeds()
        self.journal(task_id, scope)

    def set_up(self) -> None:
        site = Site(self.machines, self.tell)
        site.install()
        site.start_services()
        self.tell("client identities for alice, bob and the endpoint; local users alice and bob")
        gateway = site.create_client("gateway")
        for name in RESEARCHERS:
            self.clients[name] = site.create_client(name)
            self.uids[name] = self.host.add_user(name)
            self.laptop.add_user(f"{name}-laptop")
        site.configure_endpoint(NAME, gateway)
        self.endpoint_id = site.start_endpoint(NAME)
        self.laptop.push(PROGRAM, PROGRAMS)

    def command(self, researcher: str, deed: str, arguments: object) -> dict[str, Any]:
        """A process of a researcher's, as keywords and command for Host."""
        account = f"{researcher}-laptop"
        directory = {"GLOBUS_COMPUTE_USER_DIR": f"/home/{account}/.globus_compute"}
        return {
            "command": (
                *(self.sdk / "bin/python", f"{PROGRAMS}/{PROGRAM.name}"),
                *(deed, self.endpoint_id, json.dumps(arguments)),
            ),
            "user": account,
            "environment": {**self.clients[researcher].environment, **SDK_TRUST, **directory},
        }

    def ask(self, researcher: str, deed: str, arguments: object) -> dict[str, Any]:
        """Run a researcher's process to its end; what it printed last."""
        options = self.command(researcher, deed, arguments)
        done = self.laptop.run(*options.pop("command"), **options, timeout=180)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def matrix(self) -> tuple[str, str]:
        """Everyone on every engine at once. Returns one task's id and scope."""
        self.tell(
            "alice and bob submit on each engine; the login node looks while the functions run"
        )
        self.host.run("mkdir", "-p", PIPES)
        pipes = [pipe for cell in CELLS for pipe in (cell.started, cell.release)]
        self.host.run("mkfifo", "--mode=666", *pipes)
        processes = {name: self.start_matrix(name) for name in RESEARCHERS}
        try:
            with ThreadPoolExecutor(len(CELLS)) as pool:
                sights = dict(zip(CELLS, pool.map(self.look, CELLS), strict=True))
                list(pool.map(self.let_go, CELLS))
            said = {name: documents(process) for name, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
        rows = [self.check(cell, sights[cell], said[cell.researcher]) for cell in CELLS]
        expect("scopes", len({sight.process.scope for sight in sights.values()}), len(CELLS))
        header = ("who asked", "engine", "local user", "uid", "pid", "scope", "memory", "started")
        print(f"\n{table(header, rows)}\n", flush=True)
        last = CELLS[-1]
        return said[last.researcher][last.engine]["task_id"], sights[last].process.scope

    def start_matrix(self, researcher: str) -> subprocess.Popen[str]:
        cells = [
            {"engine": cell.engine, "started": cell.started, "release": cell.release}
            for cell in CELLS
            if cell.researcher == researcher
        ]
        options = self.command(researcher, "matrix", cells)
        line = self.laptop.command(*options.pop("command"), **options)
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def look(self, cell: Cell) -> Sight:
        """Wait for the function to run, and ask the kernel about its process."""
        problem = f"{cell.researcher}'s function did not start on {cell.engine}"
        try:
            said = self.host.run("cat", cell.started, timeout=START_PATIENCE).stdout
        except subprocess.TimeoutExpired:
            raise Mismatch(f"{problem} within {START_PATIENCE:.0f} s") from None
        at = time.time()
        if not said.isdecimal():
            raise Mismatch(f"{problem}: {said.strip()}")
        return Sight(look_at(self.host, int(said)), at)

    def let_go(self, cell: Cell) -> None:
        self.host.run("sh", "-c", f": >{cell.release}")

    def check(self, cell: Cell, sight: Sight, said: dict[str, dict[str, Any]]) -> list[str]:
        """Each thing that the table says of a cell; returns the table's row."""
        process, uid = sight.process, self.uids[cell.researcher]
        result = said[cell.engine]
        what = f"{cell.researcher} on {cell.engine}"
        expect(f"{what}: uids", process.uids, (uid,) * 4)
        expect(f"{what}: gids", process.gids, (uid,) * 4)
        expect(f"{what}: capabilities", process.capabilities, 0)
        expect(f"{what}: slice", process.slice, f"globus-compute-{uid}.slice")
        expect(f"{what}: memory of the scope", process.scope_memory, ENDPOINT_MEMORY)
        expect(f"{what}: memory of the slice", process.slice_memory, USER_MEMORY)
        expect(f"{what}: result", (result["pid"], result["uid"]), (process.pid, uid))
        return [
            *(f"{cell.researcher}@example.org", cell.engine, cell.researcher, str(uid)),
            *(str(process.pid), process.scope, f"{process.scope_memory // MIB} MiB"),
            f"{sight.at - result['submitted']:.1f} s",
        ]

    def deeds(self) -> None:
        """The other ways to ask, once each, as alice."""
        rows = []
        for title, deed, arguments, right in DEEDS:
            self.tell(title)
            began = time.monotonic()
            result = str(self.ask("alice", deed, arguments)["result"])
            if not right(result):
                raise Mismatch(f"{title}: {result!r}")
            rows.append([title, shorten(result), f"{time.monotonic() - began:.1f} s"])
        rows.append(self.two_processes())
        print(f"\n{table(('alice also used', 'result', 'time'), rows)}\n", flush=True)

    def two_processes(self) -> list[str]:
        self.tell("reload_tasks from a second process")
        began = time.monotonic()
        first = self.ask("alice", "leave", {"engine": "ThreadPoolEngine"})
        second = self.ask("alice", "reload", {"task_group_id": first["task_group_id"]})
        expect("reload_tasks: result", second["result"], "from an earlier process")
        expect("reload_tasks: task", second["task_id"], first["task_id"])
        return ["reload_tasks", second["result"], f"{time.monotonic() - began:.1f} s"]

    def journal(self, task_id: str, scope: str) -> None:
        """All that the journals have of one task."""
        match = f"GC_TASK_ID={task_id}"
        self.tell(f"journalctl {match}")
        entries = self.host.journal(match)
        own = [entry for entry in entries if entry["_SYSTEMD_UNIT"] == scope]
        if len(own) < JOURNAL_LINES:
            raise Mismatch(f"the journal has {len(own)} lines of {scope} about task {task_id}")
        uid = str(self.uids[CELLS[-1].researcher])
        expect("uids in the journal", {entry["_UID"] for entry in own}, {uid})
        units = {entry["_SYSTEMD_UNIT"] for entry in entries}
        expect("units in the journal", units, {scope})
        for host in (self.machines.services, self.host):
            print(host.run("journalctl", "--no-pager", "--output=short-iso", match).stdout)

    def how_to_go_on(self) -> str:
        """For people who want to look around in the hosts."""
        laptop, *others = (
            host.name for host in (self.laptop, self.machines.services, self.machines.login_node)
        )
        environment = self.command("alice", "", {})["environment"].items()
        return "\n".join(
            [
                f"{laptop}, {' and '.join(others)} are still up. A shell in one of them:",
                f"  {TESTHOST} run {laptop} -- bash -l",
                "Submit a function as alice, in that shell:",
                "  su - alice-laptop",
                *(f"  export {key}={value}" for key, value in environment),
                f"  {self.sdk}/bin/python",
                "  >>> from globus_compute_sdk import Executor",
                f'  >>> with Executor("{self.endpoint_id}") as executor:',
                "  ...     executor.submit(lambda: open('/proc/self/cgroup').read()).result()",
                "Remove them:",
                *(f"  {TESTHOST} down {name}" for name in (laptop, *others)),
            ]
        )


def documents(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """What a researcher's process said of each engine."""
    said: dict[str, dict[str, Any]] = {engine: {} for engine in ENGINES}
    output, _ = process.communicate(timeout=60)
    for document in map(json.loads, output.splitlines()):
        said[document["engine"]].update(document)
    if process.returncode:
        raise Mismatch(f"a researcher's process ended with {process.returncode}")
    return said


def shorten(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
