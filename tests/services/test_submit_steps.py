# SPDX-License-Identifier: Apache-2.0
"""The services are killed between any two steps of a submit, which its client then repeats.

A step is what others can see of it: a commit to the disk, or bytes to the broker or the client.
strace kills the process where it is about to take its n-th one, for each n.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from services.harness import (
    PATIENCE_S,
    URL,
    Researcher,
    Services,
    echoing,
    payload,
    results_of,
    tasks_of,
    wait_for,
)

MOST_STEPS = 8


@contextmanager
def killed_before(services: Services, step: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """Kill the services where they begin the ``number``-th call of ``step`` in one thread."""
    assert services.process is not None
    inject = f"--inject={step}:signal=KILL:when={number}"
    command = ["strace", "-f", "-o", "/dev/null", "-p", str(services.process.pid), inject]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        assert "attached" in tracer.stderr.readline()
        yield tracer
    finally:
        tracer.terminate()
        tracer.wait(PATIENCE_S)
        tracer.stderr.close()


class Client(threading.Thread):
    """Submits once, and again until it is answered, like the SDK."""

    def __init__(self, researcher: Researcher, path: str, document: object) -> None:
        super().__init__()
        self._path = path
        self._document = document
        self._headers = {"Authorization": f"Bearer {researcher.token}"}
        self.answer: dict[str, dict[str, list[str]]] = {}

    def run(self) -> None:
        wait_for(self._is_answered, 0.1, PATIENCE_S)

    def _is_answered(self) -> bool:
        try:
            answer = httpx.post(f"{URL}{self._path}", json=self._document, headers=self._headers)
        except httpx.HTTPError:
            return False
        if answer.status_code == 200:
            self.answer = answer.json()
        return bool(self.answer)


def dies_with(services: Services, client: Client) -> bool:
    """Whether the services die while they serve a client, or a moment after."""
    assert services.process is not None
    process = services.process
    wait_for(lambda: process.poll() is not None or not client.is_alive())
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.timeout(180)
def test_each_task_is_recorded_once_and_ends(services: Services, alice: Researcher) -> None:
    registration = alice.register()
    path = f"/v3/endpoints/{registration['endpoint_id']}/submit"
    function = alice.register_function("def echo(*args):\n    return list(args)\n")
    first = alice.submit(registration["endpoint_id"], function, [payload("first")])
    group, answered = first["task_group_id"], [*first["tasks"][function]]
    deaths = 0
    for step in ("fdatasync", "sendto"):
        for number in range(1, MOST_STEPS + 1):
            document = {
                "tasks": {function: [payload(step, number, each) for each in range(2)]},
                "task_group_id": group,
                "create_queue": True,
            }
            client = Client(alice, path, document)
            with killed_before(services, step, number):
                client.start()
                died = dies_with(services, client)
            if died:
                deaths += 1
                services.kill()
                services.start()
            client.join(PATIENCE_S)
            answered += client.answer["tasks"][function]
            if not died:
                break
    assert deaths >= 5
    assert len(answered) == len(set(answered))
    assert tasks_of(alice, group) == set(answered)
    with echoing(registration):
        assert set(results_of(alice, group, len(answered))) == set(answered)
