# SPDX-License-Identifier: Apache-2.0
"""GlobusComputeEngine's processes speak CurveZMQ with one another, unless told not to."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from engines.conftest import Bench, Started
from engines.test_globus_compute import ENGINE, add
from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

_OUTCOMES = {
    zmq.Event.HANDSHAKE_SUCCEEDED,
    zmq.Event.HANDSHAKE_FAILED_AUTH,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.DISCONNECTED,
}


def greeting(port: int) -> zmq.Event:
    """What becomes of a stranger without a certificate who connects to the interchange."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        monitor = stranger.get_monitor_socket()
        monitor.rcvtimeo = 5000
        stranger.connect(f"tcp://127.0.0.1:{port}")
        while (event := zmq.Event(recv_monitor_message(monitor)["event"])) not in _OUTCOMES:
            pass
        stranger.disable_monitor()
        return event


async def workers_port(bench: Bench) -> int:
    assert isinstance(bench.engine, GlobusComputeEngine)
    assert bench.engine._life is not None
    return int(bench.engine._life.executor.worker_port)


async def test_encrypted_by_default(started: Started, tmp_path: Path):
    async with started(ENGINE) as bench:
        assert await bench.value(add, 1, 2) == 3
        assert await asyncio.to_thread(greeting, await workers_port(bench)) != (
            zmq.Event.HANDSHAKE_SUCCEEDED
        )
        (keys,) = (tmp_path / "htex").rglob("certificates")
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        names = sorted(each.name for each in keys.iterdir())
        assert names == ["client.key", "client.key_secret", "server.key", "server.key_secret"]


async def test_unencrypted_where_that_is_asked_for(started: Started, tmp_path: Path):
    async with started(ENGINE | {"encrypted": False}) as bench:
        assert await bench.value(add, 1, 2) == 3
        port = await workers_port(bench)
        assert await asyncio.to_thread(greeting, port) == zmq.Event.HANDSHAKE_SUCCEEDED
        assert not list((tmp_path / "htex").rglob("certificates"))
