# SPDX-License-Identifier: Apache-2.0
"""A site under load, on which faults play; the books are kept along with it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from support.waiting import until
from system.conftest import LOCAL_USERS, WarmSite
from system.faults.books import Balance, Books, row
from system.faults.load import Load
from system.faults.residue import Levels, growth, measure, residue

# Seconds after a fault's end until each stream has to have had a success, and all be settled.
PATIENCE = 60.0


@dataclass
class Stage:
    """The site, its load, its books. ``tell`` gets a line of the ledger for each fault."""

    warm: WarmSite
    load: Load
    books: Books = field(default_factory=Books)
    marked: float = 0.0  # the books are closed on what was submitted before
    before: Levels = field(default_factory=dict)
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
        balance = self.close_books(fault.explains)
        moment = time.strftime("%H:%M:%S", time.localtime(began))
        tell(row(moment, fault.name, balance, recovery))
        return Episode(fault, balance, recovery)

    def close_books(self, explains: Collection[str] = ()) -> Balance:
        """Wait for what was submitted before this moment, and close the books on it."""
        since, self.marked = self.marked, time.time()
        self.load.settle(PATIENCE)
        self.keep_books()
        return self.books.balance(since, self.marked, explained=explains)

    def come_to_rest(self) -> tuple[Balance, list[str]]:
        """Stop the load, then the endpoint: what came of the last tasks, and what is left over."""
        self.load.pause()
        self.load.settle(PATIENCE)
        self.load.knock(PATIENCE)
        balance = self.close_books()
        self._wait_for_deliveries()
        grown = growth(self.before, measure(self.warm))
        self.warm.host.run("systemctl", "stop", self.warm.unit)
        results = [f"result of {key} which never came" for key in self.books.undelivered()]
        return balance, [*grown, *results, *residue(self.warm)]

    def _wait_for_deliveries(self) -> None:
        """What the services answered when asked is on its way by AMQP, too."""

        def all_came() -> bool:
            self.keep_books()
            return not self.books.undelivered()

        with contextlib.suppress(AssertionError):  # then it is told with what is left over
            until(all_came, 30)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    ``inject`` does it and returns once it is done; ``heal`` puts right what does not mend itself,
    and must be harmless where nothing is broken. ``explains``: what failures of tasks are called
    which this fault may cause; it explains no others. ``soak_only``: too long for the
    suite.
    """

    name: str
    inject: Callable[[Stage, random.Random], None]
    heal: Callable[[Stage], None] = lambda stage: None
    explains: Collection[str] = ()
    soak_only: bool = False

    def only_in_soaks(self) -> Fault:
        return replace(self, soak_only=True)


@dataclass(frozen=True)
class Episode:
    """What came of a fault. ``recovery``: seconds from its end to a success of every stream."""

    fault: Fault
    balance: Balance
    recovery: float | None

    def complaints(self, books: Books) -> list[str]:
        """What is wrong, a line or more each."""
        late = ["it did not recover"] if self.recovery is None else []
        return [*late, *books.complaints(self.balance)]
