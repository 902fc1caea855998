# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ goes away and comes back; the disk of the database refuses for a while."""

import subprocess
from typing import Any

import pytest

from services.harness import (
    Researcher,
    Services,
    connected,
    echoing,
    payload,
    result_for,
    results_of,
    tasks_of,
    wait_for,
)
from support.refusals import refused_writes


def test_a_restart_of_the_broker(services: Services, alice: Researcher) -> None:
    registration = alice.register()
    endpoint = registration["endpoint_id"]
    function = alice.register_function()
    group = alice.submit(endpoint, function, [payload(0)])["task_group_id"]
    subprocess.run(["systemctl", "restart", "rabbitmq-server"], check=True, timeout=120)
    path = f"/v3/endpoints/{endpoint}/submit"
    document = {
        "tasks": {function: [payload(1)]},
        "task_group_id": group,
        "create_queue": True,
    }
    wait_for(lambda: alice.call("POST", path, document).status_code == 200, 0.3, 60)
    with echoing(registration):
        recorded = tasks_of(alice, group)
        assert len(recorded) == 2
        assert set(results_of(alice, group, 2)) == recorded


@pytest.mark.long
def test_tasks_without_a_queue_need_no_broker(services: Services, alice: Researcher) -> None:
    registration = alice.register()
    function = alice.register_function()
    subprocess.run(["systemctl", "stop", "rabbitmq-server"], check=True, timeout=120)
    try:
        submitted = alice.submit(
            registration["endpoint_id"], function, [payload(1)], create_queue=False
        )
        refusal = alice.refused(
            503,
            "POST",
            f"/v3/endpoints/{registration['endpoint_id']}/submit",
            {"tasks": {function: [payload(2)]}, "create_queue": True},
        )
        assert "RabbitMQ" in refusal
    finally:
        subprocess.run(["systemctl", "start", "rabbitmq-server"], check=True, timeout=120)
    (task,) = submitted["tasks"][function]
    wait_for(lambda: registered_again(alice, registration), 0.5, 60)
    with echoing(registration):
        wait_for(lambda: alice.done("GET", f"/v2/tasks/{task}")["status"] == "success", 0.1, 60)


ERRORS = ["ENOSPC", *(pytest.param(each, marks=pytest.mark.long) for each in ("EIO", "EROFS"))]


@pytest.mark.parametrize("error", ERRORS)
def test_what_cannot_be_stored_is_not_accepted(
    services: Services, alice: Researcher, error: str
) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function()
    group = alice.submit(endpoint, function, [payload(0)])["task_group_id"]
    path = f"/v3/endpoints/{endpoint}/submit"
    document = {"tasks": {function: [payload(1)]}, "task_group_id": group, "create_queue": True}
    assert services.process is not None
    with refused_writes(services.process.pid, error):
        for _ in range(2):
            assert "their database" in alice.refused(503, "POST", path, document)
    assert len(tasks_of(alice, group)) == 1
    alice.done("POST", path, document)
    assert len(tasks_of(alice, group)) == 2


@pytest.mark.long
def test_a_result_which_cannot_be_stored_is_not_acknowledged(
    services: Services, alice: Researcher
) -> None:
    registration = alice.register()
    queue = registration["task_queue_info"]
    function = alice.register_function()
    group = alice.submit(registration["endpoint_id"], function, [payload(0)])["task_group_id"]
    assert services.process is not None
    with connected(queue["connection_url"]) as endpoint:
        (message,) = endpoint.take(queue["queue"])
        with refused_writes(services.process.pid, "ENOSPC"):
            endpoint.publish(result_for(message[2], "kept"), registration["result_queue_info"])
            assert services.process.wait(30) == 69
    services.process = None
    services.start()  # as systemd does
    assert list(results_of(alice, group, 1).values()) == ["kept"]


def test_a_stop_leaves_nothing_to_be_sent_again(services: Services, alice: Researcher) -> None:
    registration = alice.register()
    function = alice.register_function()
    count = 300
    tasks = [payload(n) for n in range(count)]
    group = alice.submit(registration["endpoint_id"], function, tasks)["task_group_id"]
    answer = alice.done("GET", "/v2/get_amqp_result_connection_url")
    queue = f"{answer['queue_prefix']}{group}"
    with connected(answer["connection_url"]) as broker, echoing(registration):
        broker.take(queue, 30)
        assert services.stop() == 0
        services.start()
        broker.take(queue, count - 30)
        assert broker.nothing_in(queue)


def registered_again(alice: Researcher, registration: dict[str, Any]) -> bool:
    asked = {"endpoint_name": "test", "metadata": {"hostname": "here"}}
    answer = alice.call("PUT", f"/v3/endpoints/{registration['endpoint_id']}", asked)
    if answer.status_code == 200:
        registration |= answer.json()
    return answer.status_code == 200
