# SPDX-License-Identifier: Apache-2.0
"""Questions over a socket: whole answers, to whom they are due, and time-outs."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from globus_compute_endpoint.host import packets
from globus_compute_endpoint.host.questions import QuestionSocket, ask, listen_abstract

FRAMES = [b"%d" % n * 1000 for n in range(10)] * 50  # more than fits a socket's buffer


async def answer() -> list[bytes]:
    return FRAMES


def answered(listener: socket.socket, question: Callable[[], list[bytes]]) -> list[bytes]:
    async def serve() -> list[bytes]:
        asked = QuestionSocket(listener, b"how", answer)
        try:
            return await asyncio.to_thread(question)
        finally:
            asked.close()

    return asyncio.run(serve())


def test_all_of_an_answer_at_an_abstract_address_and_a_path(tmp_path: Path) -> None:
    name = f"test-{uuid4()}"
    assert answered(listen_abstract(name), lambda: ask(name, b"how", 5)) == FRAMES
    path = tmp_path / "socket"
    assert answered(packets.listen(path, 0o600), lambda: ask(path, b"how", 5)) == FRAMES


def test_another_question_has_no_answer() -> None:
    name = f"test-{uuid4()}"
    assert answered(listen_abstract(name), lambda: ask(name, b"howl", 5)) == []


def test_an_address_which_is_taken() -> None:
    name = f"test-{uuid4()}"
    with listen_abstract(name), pytest.raises(OSError, match="in use"):
        listen_abstract(name)


def test_nobody_there_and_nobody_awake() -> None:
    name = f"test-{uuid4()}"
    with pytest.raises(ConnectionRefusedError):
        ask(name, b"how", 5)
    began = time.monotonic()
    with listen_abstract(name), pytest.raises(TimeoutError):  # accepted by the kernel alone
        ask(name, b"how", 0.2)
    assert time.monotonic() - began < 2


def test_other_users_are_neither_answered_nor_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = packets.Peer(1, os.geteuid() + 1, 0)
    monkeypatch.setattr(packets, "peer_of", lambda _: other)
    name = f"test-{uuid4()}"
    with listen_abstract(name), pytest.raises(PermissionError):
        ask(name, b"how", 5)

    def talk() -> list[bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(5)
            connection.connect(f"\0{name}")
            return [connection.recv(100)]

    assert answered(listen_abstract(name), talk) == [b""]
