# SPDX-License-Identifier: Apache-2.0
"""What our interchange does besides Parsl's own."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from engines.conftest import Bench, Started
from engines.test_globus_compute import ENGINE, add, pool_pid
from engines.test_scaling import engine
from engines.test_starts import wait_for
from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
from globus_compute_endpoint.engines.interchange import _AttentiveInterchange
from globus_compute_endpoint.problem import Problem
from support.tasks import value_of
from support.waiting import until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


def executor_of(bench: Bench) -> Any:
    assert isinstance(bench.engine, GlobusComputeEngine)
    assert bench.engine._life is not None
    return bench.engine._life.executor


def connect_often(port: int) -> None:
    for _ in range(1100):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.long
async def test_connections_of_strangers_stop_nothing(started: Started):
    later = {"strategy_period": 30}  # than all is over
    options = ENGINE | {"encrypted": False, "job_status_kwargs": later}
    async with started(options) as bench:
        assert await bench.value(add, 1, 2) == 3
        executor = executor_of(bench)
        await asyncio.to_thread(connect_often, executor.worker_port)
        assert await bench.value(add, 1, 2) == 3
        assert len(await asyncio.to_thread(executor.connected_managers)) == 1


@pytest.mark.long
async def test_in_a_pause_a_block_which_comes_gets_no_task(started: Started, tmp_path: Path):
    options = engine(init_blocks=0, max_blocks=2)
    later, gate = tmp_path / "later", tmp_path / "gate"
    options["provider"]["worker_init"] = (
        f"mkdir {tmp_path}/first || {{ touch {later}; until [ -e {gate} ]; do sleep 0.1; done; }}"
    )
    async with started(options) as bench:
        await bench.value(pool_pid)
        running, waiting = bench.submit(wait_for, str(gate) + "2"), bench.submit(pool_pid)
        await asyncio.to_thread(until, later.exists)
        bench.engine.pause()
        gate.touch()
        executor = executor_of(bench)
        await asyncio.to_thread(until, lambda: len(executor.connected_managers()) == 2)
        await asyncio.sleep(0.5)
        (tmp_path / "gate2").touch()
        await asyncio.wait_for(bench.engine.quiet(), 10)
        assert value_of(await running) == "open"
        assert not waiting.done()


def interchange_of(connections: set[int], connected: dict[bytes, int]) -> _AttentiveInterchange:
    """Return one as it is between two questions, a minute after the connection of b"two" broke."""
    made = _AttentiveInterchange.__new__(_AttentiveInterchange)
    made._ended, made._held = {}, set()
    made._connections, made._connected = connections, connected
    made._cut_off = {b"two": 0.0}
    made._ready_managers = {
        name: {"block_id": "0", "last_heartbeat": 60.0} for name in (b"one", b"two")
    }
    made._give_up(60.0)
    return made


async def test_a_manager_is_given_up_only_where_none_has_called_again():
    gone = interchange_of({7}, {b"one": 7})._ready_managers
    assert [each["last_heartbeat"] for each in gone.values()] == [60.0, 0.0]
    # What has called again says nothing before its next heartbeat, half a minute later perhaps.
    again = interchange_of({7, 8}, {b"one": 7})
    assert [each["last_heartbeat"] for each in again._ready_managers.values()] == [60.0, 60.0]


async def test_an_interchange_without_a_port_is_no_riddle(started: Started):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Problem, match=rf"ended at once .*in use .*:{port}"):
            async with asyncio.timeout(20), started(ENGINE | {"worker_port": port}):
                pass
