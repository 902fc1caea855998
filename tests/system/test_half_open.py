# SPDX-License-Identifier: Apache-2.0
"""Connections which nobody has cut, and by which nothing comes or goes any more."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.waiting import until
from system.conftest import WarmSite
from system.hosts import filter_network
from system.network import BROKER, LOGIN_NODE, RULES

_AWAY = f"ip saddr {LOGIN_NODE} ip daddr {BROKER} drop"
_BACK = f"ip saddr {BROKER} ip daddr {LOGIN_NODE} drop"
_LATEST = 45.0  # seconds, as the administrator is told
_CONNECTIONS = 4  # two of the manager's, two of alice's user endpoint

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


def double(n: int) -> int:
    return 2 * n


@pytest.fixture
def network(warm: WarmSite) -> Iterator[str]:
    assert warm.host.link
    yield warm.host.link.network
    filter_network(warm.host.link.network, RULES)


@pytest.mark.parametrize("drops", [(_AWAY,), (_BACK,), (_AWAY, _BACK)])
def test_what_is_half_open_is_noticed(warm: WarmSite, network: str, drops: tuple[str, ...]) -> None:
    alice = warm.researcher("alice")
    assert alice.call(double, 1, engine="ThreadPoolEngine") == 2
    rules = "\n        ".join([*drops, "ct state"])
    began = time.time()
    filter_network(network, RULES.replace("ct state", rules, 1))

    def noticed() -> dict[str, float]:
        """After how many seconds each connection was given up, by its name."""
        found: dict[str, float] = {}
        for entry in warm.host.journal("--since", f"@{began:.0f}"):
            name, lost, _ = str(entry["MESSAGE"]).partition(": not connected to")
            if lost:
                at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
                found.setdefault(name, at - began)
        return found

    until(lambda: len(noticed()) >= _CONNECTIONS, 2 * _LATEST)
    seconds = noticed()
    print(seconds)
    assert max(seconds.values()) < _LATEST
    filter_network(network, RULES)
    assert alice.call(double, 2, engine="ThreadPoolEngine") == 4
