# SPDX-License-Identifier: Apache-2.0
"""Nothing answered is lost and nothing is sent to nobody, whatever is killed and whenever."""

import json
import random
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import Any

import httpx
import pytest

from services.harness import (
    URL,
    Researcher,
    Services,
    connected,
    echoing,
    parsed_result,
    payload,
    results_of,
    tasks_of,
    wait_for,
)

SEED = 20261122

DATABASES = ("sqlite", "postgresql")


def raw_request(researcher: Researcher, path: str, document: Any) -> bytes:
    body = json.dumps(document).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost:5000\r\n"
        f"Authorization: Bearer {researcher.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def statuses_of(researcher: Researcher, tasks: Collection[str]) -> set[str]:
    answer = researcher.done("POST", "/v2/batch_status", {"task_ids": list(tasks)})
    return {each["status"] for each in answer["results"].values()}


@pytest.fixture
def frozen_broker() -> Iterator[Callable[[], None]]:
    """RabbitMQ accepts and does not answer, until the test thaws it: submits hang after commit."""
    subprocess.run(["systemctl", "kill", "-s", "STOP", "rabbitmq-server"], check=True, timeout=60)

    def thaw() -> None:
        subprocess.run(
            ["systemctl", "kill", "-s", "CONT", "rabbitmq-server"], check=True, timeout=60
        )

    yield thaw
    thaw()


@pytest.mark.parametrize("what_dies", ["client", "services"])
def test_a_repeat_of_an_unanswered_submit_gets_the_same_tasks(
    services: Services, alice: Researcher, request: pytest.FixtureRequest, what_dies: str
) -> None:
    registration = alice.register()
    endpoint = registration["endpoint_id"]
    function = alice.register_function()
    group = alice.submit(endpoint, function, [payload(0)])["task_group_id"]
    before = tasks_of(alice, group)
    document = {
        "tasks": {function: [payload(1), payload(2)]},
        "task_group_id": group,
        "create_queue": True,
    }
    path = f"/v3/endpoints/{endpoint}/submit"
    sent = raw_request(alice, path, document)
    thaw = request.getfixturevalue("frozen_broker")
    with socket.create_connection(("127.0.0.1", 5000)) as connection:
        connection.sendall(sent)
        wait_for(lambda: services.log_text().count(f"for endpoint {endpoint}") == 3)
        if what_dies == "services":
            services.kill()
    thaw()
    if what_dies == "services":
        services.start()
    answer = httpx.post(
        f"{URL}{path}",
        content=sent.partition(b"\r\n\r\n")[2],
        headers={"Authorization": f"Bearer {alice.token}"},
        timeout=60,
    ).json()
    ids = set(answer["tasks"][function])
    assert len(ids) == 2
    assert tasks_of(alice, group) == before | ids
    queue = registration["task_queue_info"]
    with connected(queue["connection_url"]) as consumer:
        messages = consumer.take(queue["queue"], 3)
        assert consumer.nothing_in(queue["queue"]) or what_dies == "services"
    published = {properties.headers["task_uuid"] for _, properties, _ in messages}
    assert published <= before | ids
    # It was answered now, so the same once more is meant to be more tasks.
    assert ids.isdisjoint(alice.done("POST", path, document)["tasks"][function])


def test_an_endpoint_which_goes_while_its_tasks_are_being_sent(
    alice: Researcher, request: pytest.FixtureRequest
) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function()
    submitted = alice.submit(endpoint, function, [payload()])
    group, tasks = submitted["task_group_id"], submitted["tasks"][function]
    thaw = request.getfixturevalue("frozen_broker")
    asked = {"task_group_id": group, "create_queue": False}
    tasks += alice.submit(endpoint, function, [payload()] * 2, **asked)["tasks"][function]
    deleting = threading.Thread(target=alice.call, args=("DELETE", f"/v2/endpoints/{endpoint}"))
    deleting.start()
    wait_for(lambda: statuses_of(alice, tasks) == {"failed"})
    thaw()
    deleting.join(60)
    # The messages of its tasks took the place of none of their results in the outbox.
    answer = alice.done("GET", "/v2/get_amqp_result_connection_url")
    with connected(answer["connection_url"]) as results:
        messages = results.take(f"{answer['queue_prefix']}{group}", 3, 20)
    assert {str(parsed_result(body).task_id) for _, _, body in messages} == set(tasks)


def test_two_answered_submits_are_two(alice: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function()
    group = alice.submit(endpoint, function, [payload()])["task_group_id"]
    answers: list[dict[str, Any]] = []

    def submit() -> None:
        answers.append(alice.submit(endpoint, function, [payload(1)], task_group_id=group))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    submit()
    ids = {task for answer in answers for task in answer["tasks"][function]}
    assert len(answers) == 9
    assert len(ids) == 9


class Submitter(threading.Thread):
    """Submits batches until told to stop, repeating like the SDK what was not answered."""

    def __init__(self, researcher: Researcher, endpoint: str, function: str) -> None:
        super().__init__()
        self.researcher = researcher
        self.path = f"/v3/endpoints/{endpoint}/submit"
        self.function = function
        self.group: str | None = None
        self.answered: list[str] = []
        self.stopping = threading.Event()
        self.failure: str | None = None
        self.token = researcher.token

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            self._submit(number)

    def _submit(self, number: int) -> None:
        document: dict[str, Any] = {
            "tasks": {self.function: [payload(str(self.ident), number, each) for each in range(7)]},
            "create_queue": True,
        }
        if self.group:
            document["task_group_id"] = self.group
        content = json.dumps(document)
        headers = {"Authorization": f"Bearer {self.token}"}
        for _ in range(400):
            try:
                answer = httpx.post(f"{URL}{self.path}", content=content, headers=headers)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status_code == 503:
                time.sleep(0.05)
                continue
            if answer.status_code != 200:
                self.failure = answer.text
                self.stopping.set()
                return
            self.group = answer.json()["task_group_id"]
            self.answered += answer.json()["tasks"][self.function]
            return
        self.failure = "never answered"
        self.stopping.set()


def test_kill_minus_nine_at_random_moments_under_load(
    services: Services, alice: Researcher
) -> None:
    moments = random.Random(SEED)
    registration = alice.register()
    function = alice.register_function("def both(*args):\n    return list(args)\n")
    submitters = [Submitter(alice, registration["endpoint_id"], function) for _ in range(3)]
    with echoing(registration):
        for submitter in submitters:
            submitter.start()
        for _ in range(6):
            time.sleep(moments.uniform(0.05, 1.2))
            services.kill()
            services.start()
        time.sleep(0.5)
        for submitter in submitters:
            submitter.stopping.set()
        for submitter in submitters:
            submitter.join(60)
            assert submitter.failure is None
            assert submitter.group is not None
            recorded = tasks_of(alice, submitter.group)
            assert len(submitter.answered) == len(set(submitter.answered)) > 20
            # The books: what was answered is recorded, and nothing but it.
            assert recorded == set(submitter.answered)
            results = results_of(alice, submitter.group, len(recorded))
            assert set(results) == recorded
            assert statuses_of(alice, recorded) == {"success"}


@pytest.mark.parametrize("missing", ["tasks", "results"])
def test_a_queue_that_was_deleted_is_made_again(alice: Researcher, missing: str) -> None:
    registration = alice.register()
    function = alice.register_function()
    submitted = alice.submit(registration["endpoint_id"], function, [payload("kept")])
    group = submitted["task_group_id"]
    queue = {
        "tasks": registration["task_queue_info"]["queue"],
        "results": f"tg.{alice.identity}.{group}",
    }[missing]
    subprocess.run(
        ["rabbitmqctl", "-q", "-p", "globus-compute", "delete_queue", queue],
        check=True,
        timeout=60,
    )
    if missing == "tasks":
        alice.submit(registration["endpoint_id"], function, [payload("kept")], task_group_id=group)
    with echoing(registration):
        wait_for(lambda: queue in queues())
        assert list(results_of(alice, group, 1).values()) == [("kept",)]


def queues() -> list[str]:
    command = ["rabbitmqctl", "-q", "-p", "globus-compute", "list_queues", "name"]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()


def test_ids_are_not_guessable_from_one_another(alice: Researcher) -> None:
    function = alice.register_function()
    submitted = alice.submit(alice.register()["endpoint_id"], function, [payload()] * 2)
    assert {uuid.UUID(task).version for task in submitted["tasks"][function]} == {4}
