# SPDX-License-Identifier: Apache-2.0
"""What is left over on the hosts once all tasks have ended and the endpoint was stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from system.conftest import LOCAL_USERS, WarmSite
from system.hosts import Host

VHOST = "globus-compute"
DATABASE = "/var/lib/globus-compute-services/services.sqlite3"
STATE = "/var/lib/globus-compute-endpoint"
# What the services still have to do: tasks that nobody answered, messages that nobody confirmed.
OPEN = """
import json, sqlite3, sys
store = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
count = lambda what: store.execute(f"select count(*) from {what}").fetchone()[0]
print(json.dumps({"open tasks": count("tasks where completed is null"), "outbox": count("outbox")}))
"""
# Prints descriptors and resident KiB of a process.
LEVEL = "ls /proc/$0/fd | wc -l; awk '/^VmRSS:/ { print $2 }' /proc/$0/status"

MOST_DESCRIPTORS = 10  # more than before
MOST_MEMORY = 96 << 10  # KiB more than before


def residue(warm: WarmSite) -> list[str]:
    """What there is and should not be, a line each; to be called when the endpoint is stopped."""
    return [*_of_users(warm), *_of_endpoint(warm), *_of_services(warm)]


def _of_users(warm: WarmSite) -> Iterator[str]:
    users = ",".join(LOCAL_USERS)
    listed = warm.host.run("ps", "-ww", "-o", "user=,pid=,args=", "-u", users, check=False).stdout
    yield from (f"process {line}" for line in listed.splitlines())
    yield from (f"scope {scope}" for scope in warm.scopes())


def _of_endpoint(warm: WarmSite) -> Iterator[str]:
    starts = f"{STATE}/{warm.name}/starts"
    listed = warm.host.run("find", starts, "-type", "f").stdout
    yield from (f"start record {line}" for line in listed.splitlines())
    marked = warm.host.run("find", f"{STATE}/users", "-name", "unfinished").stdout
    yield from (f"journal with open tasks {line}" for line in marked.splitlines())


def _of_services(warm: WarmSite) -> Iterator[str]:
    counts = json.loads(warm.services.run("python3", "-c", OPEN, DATABASE).stdout)
    yield from (f"{count} in the services' {what}" for what, count in counts.items() if count)
    columns = ("name", "messages")
    listed = warm.services.run(
        *("rabbitmqctl", "-q", "-p", VHOST, "list_queues", "--formatter=json", *columns)
    ).stdout
    for queue in json.loads(listed):
        if queue["messages"]:
            yield f"{queue['messages']} messages in {queue['name']}"
        if not _expected(queue["name"]):
            yield f"queue {queue['name']}"


def _expected(queue: str) -> bool:
    ends = (".tasks", ".command_queue")
    return queue.startswith(("services.", "tg.")) or queue.endswith(ends)


@dataclass(frozen=True)
class Level:
    """What a long-lived process holds; memory is resident, in KiB."""

    descriptors: int
    memory: int


Levels = Mapping[str, Level]


def measure(warm: WarmSite) -> Levels:
    """The levels of the units' main processes, by unit."""
    units = [f"globus-compute-endpoint{part}@{warm.name}" for part in ("", "-gateway", "-spawner")]
    places = [*((unit, warm.host) for unit in units), ("globus-compute-services", warm.services)]
    return {unit: _level(warm, f"{unit}.service", host) for unit, host in places}


def _level(warm: WarmSite, unit: str, host: Host) -> Level:
    said = host.run("sh", "-c", LEVEL, warm.property(unit, "MainPID", host)).stdout
    return Level(*map(int, said.split()))


def growth(before: Levels, after: Levels) -> list[str]:
    """Which processes hold more than they did, beyond what is normal."""
    found = []
    for unit, level in after.items():
        if (more := level.descriptors - before[unit].descriptors) > MOST_DESCRIPTORS:
            found.append(f"{unit} holds {more} descriptors more, {level.descriptors}")
        if (more := level.memory - before[unit].memory) > MOST_MEMORY:
            found.append(f"{unit} holds {more} KiB more, {level.memory}")
    return found
