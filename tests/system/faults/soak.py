# SPDX-License-Identifier: Apache-2.0
"""Faults without end: draw one after another on a site under load, for as long as told.

    soak.py MINUTES [SEED]

A line for each fault, what is wrong below it; at the end the ledger of each kind of fault and of
all. The last line is for programs; the exit status is 0 only if all of it is zero.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import FrameType

from system.conftest import LOCAL_USERS, warm_site
from system.faults.books import Balance, add, heading, row
from system.faults.catalogue import FAULTS
from system.faults.load import running_load
from system.faults.residue import measure
from system.faults.stage import Episode, Fault, Stage
from system.hosts import remove_hosts, remove_orphans, run_prefix

MINUTE = 60


def tell(line: str) -> None:
    print(line, flush=True)


def draw(rng: random.Random) -> Iterator[Fault]:
    """Faults in an order of chance, none a third time before each was drawn twice."""
    while True:
        yield from rng.sample(list(FAULTS.values()), len(FAULTS))


@dataclass
class Outcome:
    """What a soak has come to."""

    episodes: list[Episode] = field(default_factory=list)
    # Faults which could not be injected or healed, or after which something was late.
    broken: int = 0
    unexplained: int = 0
    left: list[str] = field(default_factory=list)

    def by_fault(self) -> Iterator[str]:
        for name in FAULTS:
            those = [episode for episode in self.episodes if episode.fault.name == name]
            if those:
                recoveries = [each.recovery for each in those if each.recovery is not None]
                worst = max(recoveries) if len(recoveries) == len(those) else None
                yield row(f"{len(those)} x", name, add([e.balance for e in those]), worst)

    def verdict(self, total: Balance) -> tuple[str, bool]:
        numbers = {
            "not recovered": self.broken,
            "unexplained": self.unexplained,
            "lost": len(total.lost),
            "duplicated": len(total.duplicated),
            "run twice": len(total.run_twice),
            "left over": len(self.left),
        }
        text = " · ".join(f"{name} {number}" for name, number in numbers.items())
        return text, not any(numbers.values())


def play(stage: Stage, fault: Fault, rng: random.Random, outcome: Outcome) -> None:
    try:
        episode = stage.play(fault, rng, tell)
    except (subprocess.SubprocessError, AssertionError) as error:
        tell(f"    {fault.name}: {type(error).__name__}: {error}")
        outcome.broken += 1
        return
    outcome.episodes.append(episode)
    outcome.broken += episode.recovery is None or bool(episode.balance.lost)
    outcome.unexplained += len(episode.balance.wrong)
    for complaint in episode.complaints(stage.books):
        tell(f"    {complaint}")


def soak(minutes: float, seed: str) -> bool:
    """Whether all went well."""
    outcome = Outcome()
    rng = random.Random(seed)
    with warm_site("soak") as warm:
        warm.site.start_slurm()
        people = [warm.researcher(name) for name in LOCAL_USERS]
        with running_load(people, warm.endpoint_id, warm.sdk, seed) as load:
            stage = Stage(warm, load, before=measure(warm))
            ends = time.monotonic() + minutes * MINUTE
            tell(heading())
            for fault in draw(rng):
                if time.monotonic() > ends:
                    break
                play(stage, fault, rng, outcome)
            balance, outcome.left = stage.come_to_rest()
            outcome.unexplained += len(balance.wrong)
            for complaint in [*stage.books.complaints(balance), *outcome.left]:
                tell(f"    at the end: {complaint}")
    tell("\n" + heading())
    for line in outcome.by_fault():
        tell(line)
    total = stage.books.balance()
    tell(row("", "all", replace(total, wrong=[""] * outcome.unexplained), None))
    verdict, good = outcome.verdict(total)
    tell(verdict)
    return good


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(minutes: str = "20", seed: str = "") -> int:
    signal.signal(signal.SIGTERM, interrupt)
    os.environ["TEST_HOST_PREFIX"] = run_prefix()
    seed = seed or f"{random.SystemRandom().getrandbits(32):08x}"
    tell(f"SEED={seed}")
    try:
        remove_orphans()
        return 0 if soak(float(minutes), seed) else 1
    finally:
        remove_hosts()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
