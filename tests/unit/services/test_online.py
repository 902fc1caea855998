# SPDX-License-Identifier: Apache-2.0
"""Until when an endpoint counts as there."""

import time

import pytest

from globus_compute_services.store.endpoints import online_for
from globus_compute_services.store.schema import Endpoint


@pytest.mark.parametrize(
    ("heartbeat_period", "seen_ago", "online"),
    [(30, 1, True), (30, 600, False), (0, 1, False), (0, -5, False), (30, -3600, False)],
)
def test_a_goodbye_holds_whatever_the_clock_does(
    heartbeat_period: float, seen_ago: float, online: bool
) -> None:
    endpoint = Endpoint(heartbeat_period=heartbeat_period, seen=time.time() - seen_ago)
    assert (online_for(endpoint) > 0) is online
