# SPDX-License-Identifier: Apache-2.0
"""Load on a site: researchers at the laptop who submit tasks without end, and their ledgers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import Popen
from typing import Any

from system.hosts import Host
from system.researcher import Researcher

DRIVER = Path(__file__).parent / "driver.py"
PROGRAM = "/opt/load/driver.py"
LEDGERS = "/var/tmp/load"
# Who submits to which engines (Slurm: GlobusComputeEngine with batch jobs); four user endpoints are
# what two cores carry.
STREAMS: Mapping[str, Sequence[str]] = {
    "alice": ("ThreadPoolEngine", "GlobusComputeEngine"),
    "bob": ("ProcessPoolEngine", "Slurm"),
}
RATE = 10.0  # tasks a second, of all together


class Load:
    """The drivers of all researchers, commanded as one. Times are time.time()."""

    def __init__(self, laptop: Host, drivers: Mapping[str, Popen[str]]) -> None:
        self._laptop = laptop
        self._drivers = drivers
        self._read: dict[str, int] = dict.fromkeys(drivers, 0)
        self._pool = ThreadPoolExecutor(len(drivers))

    def _ask(self, do: str, **what: Any) -> list[dict[str, Any]]:
        def ask(driver: Popen[str]) -> dict[str, Any]:
            assert driver.stdin and driver.stdout
            driver.stdin.write(json.dumps({"do": do, **what}) + "\n")
            answer = driver.stdout.readline()
            assert answer, "a driver of the load has ended"
            document: dict[str, Any] = json.loads(answer)
            return document

        return list(self._pool.map(ask, self._drivers.values()))

    def start(self, rate: float = RATE) -> None:
        self._ask("start", rate=rate / len(self._drivers))

    def pause(self) -> None:
        self._ask("pause")

    def misbehave(self, engine: str, deed: str, patience: float = 40) -> None:
        """Have an engine run a task which does worse than raise (driver.work), and wait for it."""
        self._ask("misbehave", engine=engine, deed=deed, patience=patience)

    def settle(self, patience: float) -> list[str]:
        """Wait until all that is open now has ended; the keys of what has not."""
        return [key for each in self._ask("settle", patience=patience) for key in each["open"]]

    def knock(self, patience: float) -> None:
        """Submit one task more in each stream, and wait for it.

        An SDK whose watcher a fault has ended listens again only once something is submitted.
        """
        self._ask("knock", patience=patience)

    def recover(self, since: float, patience: float) -> float | None:
        """Wait until what was submitted after a moment succeeds in each stream.

        How long that took; None if it took too long.
        """
        answers = self._ask("recover", since=since, patience=patience)
        if any("late" in each for each in answers):
            return None
        return float(max(each["at"] for each in answers)) - since

    def events(self) -> list[dict[str, Any]]:
        """What the ledgers have got since the last call."""
        found = []
        for name in self._drivers:
            # Not what is being written now: whole lines only.
            text = self._laptop.run(
                "tail", "-c", f"+{self._read[name] + 1}", f"{LEDGERS}/{name}.jsonl", check=False
            ).stdout
            whole = text[: text.rfind("\n") + 1]
            self._read[name] += len(whole.encode())
            found += [json.loads(line) for line in whole.splitlines()]
        return found


@contextlib.contextmanager
def running_load(
    people: Sequence[Researcher], endpoint: str, sdk: Path, seed: str, patience: float = 60
) -> Iterator[Load]:
    """Start the drivers and the load; it runs once each stream has had its first success."""
    laptop = people[0].host
    laptop.write(PROGRAM, DRIVER.read_text())
    laptop.run("mkdir", "-p", LEDGERS)
    with contextlib.ExitStack() as stack:
        drivers = {}
        for person in people:
            command: list[str | Path] = [
                *(sdk / "bin/python", PROGRAM, endpoint, f"{LEDGERS}/{person.name}.jsonl"),
                *(person.name, seed, *STREAMS[person.name]),
            ]
            process = laptop.background(*command, environment=person.environment)
            drivers[person.name] = stack.enter_context(process)
        load = Load(laptop, drivers)
        began = time.time()
        load.start()
        assert load.recover(began, patience) is not None, "the load did not get going"
        yield load
