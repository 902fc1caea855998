# SPDX-License-Identifier: Apache-2.0
"""Start commands to managers, and what follows from failure reports."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from globus_compute_common.messagepack.message_types import EPStatusReport

from services.harness import (
    Manager,
    Researcher,
    Services,
    connected,
    heartbeat,
    parsed_result,
    payload,
    result_for,
)


@pytest.fixture
def manager(alice: Researcher) -> Iterator[Manager]:
    made = Manager(alice)
    yield made
    made.broker.close()


@pytest.fixture(scope="module")
def function(bob: Researcher) -> str:
    return bob.register_function()


def submit(bob: Researcher, manager: Manager, function: str, **asked: Any) -> dict[str, Any]:
    return bob.submit(manager.id, function, [payload()], **asked)


def test_what_a_start_command_says(
    bob: Researcher,
    manager: Manager,
    function: str,
    new_researcher: Callable[..., Researcher],
) -> None:
    linked = new_researcher("robert", bob.client["username"])
    manager.show_itself()
    config = {"engine": "thread", "workers": 2}
    runtime = {"globus_compute_sdk_version": "4.19.0", "python": {"version": "3.11.2"}}
    submit(bob, manager, function, user_endpoint_config=config, user_runtime=runtime)
    command, properties = manager.command()
    assert properties.content_type == "application/json"
    assert abs(properties.timestamp - time.time()) < 30
    assert int(properties.expiration) == 170_000
    assert command["command"] == "cmd_start_endpoint"
    assert command["args"] == []
    assert command["globus_effective_identity"] == bob.identity
    assert command["globus_username"] == bob.client["username"]
    first, *others = command["globus_identity_set"]
    assert (first["sub"], first["username"]) == (bob.identity, bob.client["username"])
    assert [each["sub"] for each in others] == [linked.identity]
    kwargs = command["kwargs"]
    credentials = kwargs["amqp_creds"]
    user_endpoint = credentials["endpoint_id"]
    assert kwargs["name"] == f"uep.{manager.id}.{user_endpoint}"
    assert kwargs["user_opts"] == config
    assert kwargs["user_runtime"] == runtime
    assert set(credentials) == {
        "endpoint_id",
        "task_queue_info",
        "result_queue_info",
        "heartbeat_queue_info",
    }
    with connected(credentials["task_queue_info"]["connection_url"]) as started:
        (message,) = started.take(credentials["task_queue_info"]["queue"])
        started.publish(result_for(message[2]), credentials["result_queue_info"])


def test_one_user_endpoint_per_identity_and_configuration(
    alice: Researcher, bob: Researcher, manager: Manager
) -> None:
    manager.show_itself()
    function = alice.register_function(public=True)
    seen = set()
    for researcher, config in ((alice, {}), (bob, {}), (bob, {"a": 1, "b": [2]})):
        submit(researcher, manager, function, user_endpoint_config=config)
        command, _ = manager.command()
        seen.add(command["kwargs"]["amqp_creds"]["endpoint_id"])
        assert command["globus_effective_identity"] == researcher.identity
    assert len(seen) == 3
    # The same again, but for the order of its keys: no new one.
    submit(bob, manager, function, user_endpoint_config={"b": [2], "a": 1})
    assert manager.no_command()


def test_none_is_sent_while_it_runs(bob: Researcher, manager: Manager, function: str) -> None:
    manager.show_itself()
    submit(bob, manager, function)
    credentials = manager.command()[0]["kwargs"]["amqp_creds"]
    with connected(credentials["task_queue_info"]["connection_url"]) as running:
        running.publish(heartbeat(credentials["endpoint_id"]), credentials["heartbeat_queue_info"])
        time.sleep(0.3)
        submit(bob, manager, function)
        assert manager.no_command()
        # It says goodbye with work left: that is a reason to start it again.
        goodbye = heartbeat(credentials["endpoint_id"], heartbeat_period=0)
        running.publish(goodbye, credentials["heartbeat_queue_info"])
        again = manager.command()[0]["kwargs"]["amqp_creds"]
        assert again == credentials, "the password of a running user endpoint must stay"


def test_one_is_sent_for_those_which_run_where_their_manager_was_refused(
    bob: Researcher, manager: Manager, function: str
) -> None:
    manager.show_itself()
    submit(bob, manager, function)
    credentials = manager.command()[0]["kwargs"]["amqp_creds"]
    with connected(credentials["task_queue_info"]["connection_url"]) as running:
        running.publish(heartbeat(credentials["endpoint_id"]), credentials["heartbeat_queue_info"])
        time.sleep(0.3)
        metadata = {"hostname": "here", "renewal": True}
        asked = {"endpoint_name": "test", "multi_user": True, "metadata": metadata}
        manager.info = manager.owner.done("PUT", f"/v3/endpoints/{manager.id}", asked)
        manager.show_itself()
        assert manager.command()[0]["kwargs"]["amqp_creds"] == credentials
        manager.show_itself()
        assert manager.no_command()


def test_again_when_it_is_silent(bob: Researcher, manager: Manager, function: str) -> None:
    manager.show_itself()
    submit(bob, manager, function)
    credentials = manager.command()[0]["kwargs"]["amqp_creds"]
    with connected(credentials["task_queue_info"]["connection_url"]) as running:
        short = heartbeat(credentials["endpoint_id"], heartbeat_period=1)
        running.publish(short, credentials["heartbeat_queue_info"])
    began = time.monotonic()
    assert manager.command()[0]["kwargs"]["amqp_creds"] == credentials
    assert 1 < time.monotonic() - began < 20


def test_again_when_the_manager_comes_online(
    bob: Researcher, manager: Manager, function: str
) -> None:
    submit(bob, manager, function)
    assert manager.no_command(), "it would expire in the queue of a manager who is not there"
    manager.show_itself()
    first = manager.command()[0]
    manager.show_itself(heartbeat_period=0)
    manager.show_itself()
    assert manager.command()[0]["kwargs"]["name"] == first["kwargs"]["name"]


def test_again_after_a_restart_of_the_services(
    services: Services, bob: Researcher, manager: Manager, function: str
) -> None:
    manager.show_itself()
    submit(bob, manager, function)
    first = manager.command()[0]
    services.kill()
    services.start()
    assert manager.command()[0]["kwargs"]["amqp_creds"] == first["kwargs"]["amqp_creds"]


def failure(endpoint: str, message: str) -> EPStatusReport:
    state = {"error": message, "heartbeat_period": 3}
    return EPStatusReport(endpoint_id=uuid.UUID(endpoint), global_state=state, task_statuses={})


def test_a_failed_start_fails_the_tasks_and_empties_the_queue(
    bob: Researcher, manager: Manager, function: str
) -> None:
    manager.show_itself()
    submitted = bob.submit(manager.id, function, [payload(number) for number in range(3)])
    credentials = manager.command()[0]["kwargs"]["amqp_creds"]
    endpoint, queue = credentials["endpoint_id"], credentials["task_queue_info"]["queue"]
    with connected(credentials["task_queue_info"]["connection_url"]) as running:
        # One is in the hands of a consumer, which is about to die of it.
        running.channel.basic_qos(prefetch_count=1)
        running.take(queue, 1)
        report = failure(endpoint, "workers: 3 is more than the 2 that are allowed")
        running.publish(report, credentials["heartbeat_queue_info"])
        answer = bob.done("GET", "/v2/get_amqp_result_connection_url")
        with connected(answer["connection_url"]) as results:
            group = f"{answer['queue_prefix']}{submitted['task_group_id']}"
            messages = results.take(group, 3)
    for _, _, body in messages:
        result = parsed_result(body)
        assert result.is_error
        assert "more than the 2 that are allowed" in result.data
    # What comes next is for a new start, and gets the new task only.
    (task,) = submit(bob, manager, function)["tasks"][function]
    assert manager.command()[0]["kwargs"]["amqp_creds"]["endpoint_id"] == endpoint
    with connected(credentials["task_queue_info"]["connection_url"]) as again:
        ((_, properties, _),) = again.take(queue)
        assert properties.headers["task_uuid"] == task
        assert again.nothing_in(queue)


def test_a_report_never_fails_a_manager(bob: Researcher, manager: Manager, function: str) -> None:
    manager.show_itself()
    (task,) = submit(bob, manager, function)["tasks"][function]
    manager.command()
    manager.broker.publish(failure(manager.id, "bad"), manager.info["heartbeat_queue_info"])
    time.sleep(0.5)
    status = f"/v2/endpoints/{manager.id}/status"
    assert bob.done("GET", status)["status"] == "online"
    assert bob.done("GET", f"/v2/tasks/{task}")["status"] == "waiting-for-ep"


def test_one_user_endpoints_failure_is_not_anothers(
    alice: Researcher, bob: Researcher, manager: Manager
) -> None:
    manager.show_itself()
    function = alice.register_function(public=True)
    (hers,) = submit(alice, manager, function)["tasks"][function]
    manager.command()
    (his,) = submit(bob, manager, function)["tasks"][function]
    credentials = manager.command()[0]["kwargs"]["amqp_creds"]
    with connected(credentials["task_queue_info"]["connection_url"]) as running:
        report = failure(credentials["endpoint_id"], "no such local user")
        running.publish(report, credentials["heartbeat_queue_info"])
        time.sleep(0.5)
    assert bob.done("GET", f"/v2/tasks/{his}")["exception"] == "no such local user"
    assert alice.done("GET", f"/v2/tasks/{hers}")["status"] == "waiting-for-ep"


def test_a_user_endpoint_cannot_be_submitted_to_directly(
    bob: Researcher, manager: Manager, function: str
) -> None:
    manager.show_itself()
    submit(bob, manager, function)
    endpoint = manager.command()[0]["kwargs"]["amqp_creds"]["endpoint_id"]
    document = {"tasks": {function: [payload()]}}
    refusal = bob.refused(403, "POST", f"/v3/endpoints/{endpoint}/submit", document)
    assert manager.id in refusal
