# SPDX-License-Identifier: Apache-2.0
"""Nodes which are too small."""

from __future__ import annotations

from typing import Any

import pytest

from engines.conftest import Started
from engines.test_globus_compute import ENGINE, pool_pid

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


@pytest.mark.parametrize(
    "much",
    [
        {"cores_per_worker": 10_000},
        pytest.param({"mem_per_worker": 10**6}, marks=pytest.mark.long),
    ],
)
async def test_a_node_without_room_for_a_worker_is_told(started: Started, much: dict[str, Any]):
    async with started(ENGINE | much) as bench:
        code, text = await bench.error(pool_pid)
        assert code == "NoWorkers"
        assert "a node has not the cores or the free memory for a single worker" in text
