# SPDX-License-Identifier: Apache-2.0
"""Identical requests take turns; a turn lasts until the answer is out."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from globus_compute_services.api.answered import AnsweredResponse, Turns


class Client:
    """The server's side of one connection, after the request was read."""

    def __init__(self, *, gone_after: int | None = None) -> None:
        self.sent: list[Message] = []
        self.gone_after = gone_after

    async def receive(self) -> Message:
        if self.gone_after is not None and len(self.sent) >= self.gone_after:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def answer(turns: Turns, client: Client, written: list[str], name: str = "x") -> None:
    async def prepare() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"name": name}

    async def when_written() -> None:
        written.append(name)

    response = AnsweredResponse(turns, "fingerprint", prepare, when_written)
    await response({"type": "http"}, client.receive, client.send)


def test_an_answer_written_out_counts() -> None:
    written: list[str] = []
    client = Client()
    asyncio.run(answer(Turns(), client, written))
    assert client.body() == b'{"name":"x"}'
    assert written == ["x"]


@pytest.mark.parametrize("gone_after", [0, 1, 2])
def test_an_answer_to_a_client_who_left_does_not(gone_after: int) -> None:
    written: list[str] = []
    asyncio.run(answer(Turns(), Client(gone_after=gone_after), written))
    assert written == []


def test_identical_requests_take_turns() -> None:
    order: list[str] = []

    async def work(turns: Turns, name: str) -> None:
        async with turns.take("same"):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    async def both() -> None:
        turns = Turns()
        await asyncio.gather(work(turns, "a"), work(turns, "b"))

    asyncio.run(both())
    assert order == ["a in", "a out", "b in", "b out"]


def test_a_failed_turn_ends() -> None:
    async def run() -> None:
        turns = Turns()
        with pytest.raises(ValueError, match="no"):
            async with turns.take("same"):
                raise ValueError("no")
        async with asyncio.timeout(5), turns.take("same"):
            pass

    asyncio.run(run())
