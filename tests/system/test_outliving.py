# SPDX-License-Identifier: Apache-2.0
"""A user endpoint has twenty tasks, and something dies: all of them end, with no further submit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.waiting import until
from system.conftest import WarmSite

THREADS = "ThreadPoolEngine"  # two threads, in the user endpoint's own process
TASKS = 20


def where() -> int:
    import os
    import subprocess

    subprocess.Popen(["sleep", "300"], start_new_session=True)  # its scope outlives it
    return os.getpid()


def work(path: str, number: int) -> int:
    import time

    time.sleep(0.4)
    with open(path, "a") as file:
        file.write(f"{number}\n")
    return number


def kill(warm: WarmSite, pid: int, *parts: str) -> None:
    """Kill a user endpoint, and units of the endpoint together with it."""
    units = " ".join(f"globus-compute-endpoint{part}@{warm.name}.service" for part in parts)
    before = f"systemctl kill --signal=KILL --kill-who=main {units}; " if units else ""
    warm.host.run("sh", "-c", f"{before}kill -KILL {pid}")


def kill_with_manager(warm: WarmSite, pid: int) -> None:
    """The next manager is to notice by itself, before the services ask for it."""
    kill(warm, pid, "")
    until(
        lambda: f"process {pid}, has ended" in warm.host.run("journalctl", "-u", warm.unit).stdout,
        20,
    )


def kill_adopted(warm: WarmSite, pid: int) -> None:
    warm.host.run("systemctl", "restart", warm.unit)
    warm.host.run("kill", "-KILL", str(pid))


def stop_and_start(warm: WarmSite, pid: int) -> None:
    warm.host.run("systemctl", "stop", warm.unit)
    assert warm.scopes() == []
    warm.host.run("systemctl", "start", warm.unit)


def reboot(warm: WarmSite, pid: int) -> None:
    warm.host.run("systemctl", "enable", warm.unit)
    warm.host.down(keep_disk=True)
    warm.host.up()


# What befalls it, and what the error of a task says which that cut short.
EVENTS: dict[str, tuple[Callable[[WarmSite, int], None], str]] = {
    "killed with its spawner": (lambda warm, pid: kill(warm, pid, "-spawner"), ""),
    "killed": (kill, "it was killed by SIGKILL"),
    "killed with its manager": (kill_with_manager, "it was killed by SIGKILL"),
    "adopted and killed": (kill_adopted, "its process ended"),
    "stopped and started": (stop_and_start, ""),
    "reboot": (reboot, ""),
}


def befallen(
    warm: WarmSite, record: str, befall: Callable[[WarmSite, int], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The outcomes of twenty tasks between which something happens, and which of them have run."""
    person = warm.researcher("alice")
    pid = person.call(where, engine=THREADS)
    command = person.command(*((work, (record, n)) for n in range(TASKS)), engine=THREADS)

    def done() -> list[str]:
        return warm.host.run("cat", record, check=False).stdout.split()

    with person.host.background(*command, environment=person.environment) as process:
        until(lambda: len(done()) >= 2, 40)
        befall(warm, pid)
        said, _ = process.communicate(timeout=50)  # the services' next start command takes longer
    return [json.loads(line) for line in said.splitlines()], done()


# The fault suite has these, too.
LONG = ("killed", "killed with its spawner", "adopted and killed", "stopped and started")


@pytest.mark.parametrize(
    "event",
    [pytest.param(event, marks=[pytest.mark.long] * (event in LONG)) for event in EVENTS],
)
def test_all_twenty_end(warm: WarmSite, event: str) -> None:
    befall, reason = EVENTS[event]
    outcomes, runs = befallen(warm, f"/home/alice/{event.replace(' ', '-')}", befall)
    errors = [outcome["error"] for outcome in outcomes if "error" in outcome]
    assert len(outcomes) == TASKS
    assert len(errors) <= 2, "no more than had begun"
    for error in errors:
        assert "TaskInterrupted" in error
        assert reason in error
    assert len(runs) == len(set(runs)), "none ran twice"
    values = {outcome["value"] for outcome in outcomes if "value" in outcome}
    assert values <= {int(number) for number in runs}
    until(lambda: warm.property(warm.unit, "ActiveState") == "active", 60)


def test_where_it_may_not_return_all_are_told_and_none_runs_later(warm: WarmSite) -> None:
    path = f"/etc/globus-compute-endpoint/{warm.name}/identity_mapping.json"
    before = warm.host.read(path)
    taken = "took the new identity mapping"

    def map_to_nobody(warm: WarmSite, pid: int) -> None:
        count = len(said(taken))
        warm.host.write(path, before.replace("example", "nowhere"))
        until(lambda: len(said(taken)) > count)
        warm.host.run("kill", "-KILL", str(pid))

    def said(what: str) -> list[str]:
        entries = warm.host.journal("-u", warm.unit)
        return [entry["MESSAGE"] for entry in entries if what in entry["MESSAGE"]]

    try:
        outcomes, runs = befallen(warm, "/home/alice/refused", map_to_nobody)
    finally:
        warm.host.write(path, before)
    errors = [outcome["error"] for outcome in outcomes if "error" in outcome]
    assert len(outcomes) == TASKS
    assert len(errors) >= TASKS - len(runs)
    assert all("is mapped to a local user of this endpoint" in error for error in errors)
    (line,) = said("is not started again")
    assert "/var/lib/globus-compute-endpoint/users/" in line
    until(lambda: len(said(taken)) >= 2)
    # The next one takes charge of new tasks only.
    assert warm.researcher("alice").call(where, engine=THREADS)
    assert warm.host.read("/home/alice/refused").split() == runs
