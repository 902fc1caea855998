# SPDX-License-Identifier: Apache-2.0
"""A unit which hangs is ended by its watchdog and comes back; users' work goes on meanwhile."""

import time

import pytest

THREADS = "ThreadPoolEngine"

pytestmark = pytest.mark.timeout(300)


def who():
    import os

    return os.getpid()


@pytest.mark.parametrize("unit", ["", "-gateway", "-spawner"])
def test_a_hung_unit_is_replaced_and_user_endpoints_are_kept(warm, unit):
    full = f"globus-compute-endpoint{unit}@{warm.name}.service"
    person = warm.researcher("alice")
    before = person.call(who, engine=THREADS)
    hung = warm.property(full, "MainPID")
    warm.host.run("kill", "-STOP", hung)
    deadline = time.monotonic() + 90  # WatchdogSec=30, and what systemd and the machine take
    while (pid := warm.property(full, "MainPID")) in (hung, "0") or pid == "":
        assert time.monotonic() < deadline, "the watchdog did not act"
        time.sleep(1)
    seen = warm.host.journal("_PID=1", "--grep", "Watchdog timeout")
    assert any(full in entry["MESSAGE"] for entry in seen)
    while warm.property(warm.unit, "ActiveState") != "active":
        assert time.monotonic() < deadline + 60
        time.sleep(1)
    assert person.call(who, engine=THREADS) == before
