# SPDX-License-Identifier: Apache-2.0
"""Nobody waits longer than they said for what blocks."""

import asyncio
import threading
import time

import pytest

from globus_compute_endpoint.host.patience import LastAnswer, in_thread, within


def fail() -> None:
    raise FileNotFoundError("gone")


def test_what_it_does_is_what_the_call_does():
    assert within(5, lambda: 42) == 42
    assert asyncio.run(in_thread(lambda: 42, 5)) == 42
    with pytest.raises(FileNotFoundError):
        within(5, fail)
    with pytest.raises(FileNotFoundError):
        asyncio.run(in_thread(fail, 5))


def test_what_blocks_is_left_behind():
    never = threading.Event()
    told: list[str] = []
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, never.wait, slow=0.1, on_slow=lambda: told.append("slow"))
    with pytest.raises(TimeoutError):
        asyncio.run(in_thread(never.wait, 0.1))
    assert time.monotonic() - before < 2
    assert told == ["slow"]
    never.set()


def test_the_last_answer_is_given_while_the_next_is_due():
    answered = threading.Event()
    questions: list[int] = []

    def answer() -> int:
        questions.append(1)
        answered.wait()
        return len(questions)

    last = LastAnswer(answer, 0, seconds=0.01)
    assert [last(), last()] == [0, 0]
    assert questions == [1]
    answered.set()
    assert LastAnswer(lambda: 7, 0, seconds=5)() == 7
    for _ in range(500):
        if last() > 0:
            return
        time.sleep(0.01)
    pytest.fail("no answer was taken")
