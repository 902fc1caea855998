# SPDX-License-Identifier: Apache-2.0
"""Closing the books: each task that was accepted has ended once, and was run as often as it may.

Only what the ledgers and the record of executions say, no host: forged ones can try it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What a failure is called, by what its text has; the first that fits.
REASONS = (
    ("asked for", re.compile(r"was asked to fail")),
    ("interrupted", re.compile(r"TaskInterrupted")),
    (
        "worker lost",
        re.compile(
            r"WorkerLost|ManagerLost|worker process .* was killed|interchange process has ended"
        ),
    ),
    ("endpoint failed", re.compile(r"user endpoint")),
)
OTHER = "other"
# Who dies between the broker's confirm and a note of that sends a result twice; an SDK takes one.
SENT_AGAIN = "sent again"


@dataclass
class Account:
    """One task, from the researcher's side and from the login node's."""

    key: str
    deed: str = ""
    task: str = ""
    submitted: float = 0.0
    ends: list[str] = field(default_factory=list)
    reason: str = ""
    # How its result came by AMQP: whether the broker said that it may have come before.
    deliveries: list[bool] = field(default_factory=list)
    may_come_again: bool = False
    executions: int = 0

    @property
    def accepted(self) -> bool:
        return bool(self.task)

    @property
    def end(self) -> str:
        return self.ends[0] if self.ends else ""

    @property
    def failure(self) -> str:
        """What its failure is called; empty where it has none, or where none is given."""
        if not self.reason:
            return ""
        return next((name for name, text in REASONS if text.search(self.reason)), OTHER)


@dataclass(frozen=True)
class Balance:
    """What came of a number of tasks; lists are of keys."""

    accepted: int
    succeeded: int
    failed: Mapping[str, int]
    unanswered: int
    lost: list[str]
    duplicated: list[str]
    run_twice: list[str]
    # A success that was not earned, a failure where none was asked for, one that gives no reason.
    wrong: list[str]

    @property
    def closed(self) -> bool:
        return not (self.lost or self.duplicated or self.run_twice or self.wrong)


class Books:
    """The accounts of all tasks, kept from ledgers' events and records of executions."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._deliveries: dict[str, list[bool]] = {}  # by task id; whether repeated

    def enter(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Enter a ledger's events."""
        for event in events:
            if event["event"] == "delivered":
                self._deliver(event["task"], again=event["again"])
            else:
                self._enter(event)

    def _enter(self, event: Mapping[str, Any]) -> None:
        account = self._account(event["key"])
        match event["event"]:
            case "submitted":
                account.submitted, account.deed = event["at"], event["deed"]
            case "accepted":
                account.task = event["task"]
                account.deliveries = self._deliveries.setdefault(account.task, [])
            case "succeeded":
                right = event["value"] == account.key
                account.ends.append("succeeded" if right else "another's result")
            case "failed":
                account.ends.append("failed")
                account.reason = event["reason"]
            case "unanswered":
                pass

    def _account(self, key: str) -> Account:
        return self._accounts.setdefault(key, Account(key))

    def _deliver(self, task: str, *, again: bool) -> None:
        self._deliveries.setdefault(task, []).append(again)

    def enter_executions(self, lines: Iterable[str]) -> None:
        """Enter lines of a user's record, each with a key first."""
        for line in lines:
            self._account(line.split()[0]).executions += 1

    def balance(
        self, since: float = 0.0, until: float = float("inf"), runs: int = 1, explained: Any = ()
    ) -> Balance:
        """Close the books on the tasks which were submitted in a time.

        ``runs``: how often one may be run. ``explained``: what failures nobody asked for are
        called, where something explains them.
        """
        chosen = [each for each in self._accounts.values() if since <= each.submitted < until]
        accepted = [each for each in chosen if each.accepted]
        if SENT_AGAIN in explained:
            for each in accepted:
                each.may_come_again = True
        return Balance(
            accepted=len(accepted),
            succeeded=sum(each.end == "succeeded" for each in accepted),
            failed=Counter(
                each.failure or "no reason" for each in accepted if each.end == "failed"
            ),
            unanswered=len(chosen) - len(accepted),
            lost=[each.key for each in accepted if not each.ends],
            duplicated=[
                e.key
                for e in accepted
                if len(e.ends) > 1 or (e.deliveries.count(False) > 1 and not e.may_come_again)
            ],
            run_twice=[each.key for each in chosen if each.executions > runs],
            wrong=[each.key for each in accepted if each.ends and not _right(each, explained)],
        )

    def undelivered(self) -> list[str]:
        """Tasks which have ended, and whose result never came by AMQP."""
        return [each.key for each in self._accounts.values() if each.ends and not each.deliveries]

    def complaints(self, balance: Balance) -> list[str]:
        """Which tasks are why a balance is not closed."""
        keys = {
            "lost": balance.lost,
            "duplicated": balance.duplicated,
            "run twice": balance.run_twice,
        }
        told = [f"{name}: {', '.join(some[:10])}" for name, some in keys.items() if some]
        for key in balance.wrong[:5]:
            account = self._accounts[key]
            told.append(f"wrong: {key} {account.end}: {account.reason[-600:]}")
        return told


def _right(account: Account, explained: Iterable[str]) -> bool:
    """Whether its end is one that it can have."""
    if account.end == "succeeded":
        return account.executions > 0 and not account.deed
    if account.failure == "asked for":
        return account.deed == "raise" and account.executions > 0
    return account.failure in set(explained)


def add(balances: Sequence[Balance]) -> Balance:
    """Balances of different times, as one."""
    failed: Counter[str] = Counter()
    for each in balances:
        failed.update(each.failed)
    return Balance(
        accepted=sum(each.accepted for each in balances),
        succeeded=sum(each.succeeded for each in balances),
        failed=failed,
        unanswered=sum(each.unanswered for each in balances),
        lost=[key for each in balances for key in each.lost],
        duplicated=[key for each in balances for key in each.duplicated],
        run_twice=[key for each in balances for key in each.run_twice],
        wrong=[key for each in balances for key in each.wrong],
    )


_COLUMNS = (
    *("moment", "fault", "accepted", "succeeded", "failed"),
    *("lost", "duplicated", "twice", "wrong", "recovery"),
)
_WIDTHS = (8, 34, 8, 9, 7, 4, 10, 5, 5, 8)


def heading() -> str:
    return "  ".join(
        f"{name:<{width}}" for name, width in zip(_COLUMNS, _WIDTHS, strict=True)
    ).rstrip()


def row(moment: str, fault: str, balance: Balance, recovery: float | None) -> str:
    """A line of the table; below the heading."""
    cells = (
        *(moment, fault, balance.accepted, balance.succeeded, sum(balance.failed.values())),
        *(len(balance.lost), len(balance.duplicated), len(balance.run_twice), len(balance.wrong)),
        f"{recovery:.1f} s" if recovery is not None else "",
    )
    line = "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    unasked = {name: n for name, n in balance.failed.items() if name != "asked for"}
    return line + "".join(f"  {name}: {n}" for name, n in sorted(unasked.items()))
