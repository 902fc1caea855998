# SPDX-License-Identifier: Apache-2.0
"""A site under load, on which faults play; the books are kept along with it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from system.conftest import LOCAL_USERS, WarmSite
from system.faults.books import Balance, Books, row
from system.faults.load import Load

# Seconds after a fault's end until each stream has to have had a success, and all be settled.
PATIENCE = 60.0


@dataclass
class Stage:
    """The site, its load, its books. ``tell`` gets a line of the ledger for each fault."""

    warm: WarmSite
    load: Load
    books: Books = field(default_factory=Books)
    _read: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOCAL_USERS, 0))

    def unit(self, part: str = "") -> str:
        """The unit of a part: ``-gateway``, ``-spawner``, or the manager's."""
        return f"globus-compute-endpoint{part}@{self.warm.name}.service"

    def keep_books(self) -> None:
        """Enter what happened since the last call."""
        # The ledgers first: what they say has succeeded, the other record has already.
        self.books.enter(self.load.events())
        for name in LOCAL_USERS:
            path = f"/home/{name}/executions"
            text = self.warm.host.run(
                "tail", "-c", f"+{self._read[name] + 1}", path, check=False
            ).stdout
            whole = text[: text.rfind("\n") + 1]
            self._read[name] += len(whole.encode())
            self.books.enter_executions(whole.splitlines())

    def play(self, fault: Fault, rng: random.Random, tell: Callable[[str], None]) -> Episode:
        """Inject a fault at a moment of chance, heal it, wait for recovery, close the books."""
        began = time.time()
        time.sleep(rng.uniform(0.2, 2.0))
        try:
            fault.inject(self, rng)
        finally:
            fault.heal(self)
        healed = time.time()
        recovery = self.load.recover(healed, PATIENCE)
        self.load.settle(PATIENCE)
        ended = time.time()
        self.keep_books()
        balance = self.books.balance(began - 5, healed, explained=fault.explains)
        moment = time.strftime("%H:%M:%S", time.localtime(began))
        tell(row(moment, fault.name, balance, recovery))
        return Episode(fault, began, ended, balance, recovery)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    ``inject`` does it and returns once it is done; ``heal`` puts right what does not mend itself,
    and must be harmless where nothing is broken. ``explains``: what failures of tasks are called
    which this fault may cause; it explains no others.
    """

    name: str
    inject: Callable[[Stage, random.Random], None]
    heal: Callable[[Stage], None] = lambda stage: None
    explains: Collection[str] = ()


@dataclass(frozen=True)
class Episode:
    """What came of a fault. ``recovery``: seconds from its end to a success of every stream."""

    fault: Fault
    began: float
    ended: float
    balance: Balance
    recovery: float | None

    def complaint(self, books: Books) -> str:
        """What is wrong with the books, empty where nothing is."""
        told = []
        if self.recovery is None:
            told.append("it did not recover")
        for name in ("lost", "duplicated", "run_twice"):
            if keys := getattr(self.balance, name):
                told.append(f"{name}: {', '.join(keys[:10])}")
        for key, reason in books.reasons(self.balance.wrong).items():
            told.append(f"wrong: {key}: {reason[-600:] or 'no reason'}")
        return "\n".join(told)
