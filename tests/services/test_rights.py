# SPDX-License-Identifier: Apache-2.0
"""Broker accounts can do what they are for. Everything else is tried here, and refused."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pika
import pytest

from services.harness import (
    Broker,
    Researcher,
    Services,
    connected,
    heartbeat,
    parsed_result,
    payload,
    result_for,
    value_in,
    wait_for,
)

ACCESS_REFUSED = 403
GARBAGE = (b"", b"\x01", b"\xff\xff", b"\x01{}", b"\x01[", b"\x01" + b"[" * 10**5)


@dataclass
class Side:
    """A researcher with an endpoint, one task on its way to it, and the result queue."""

    researcher: Researcher
    registration: dict[str, Any]
    task: str
    group: str

    @property
    def endpoint(self) -> str:
        return str(self.registration["endpoint_id"])

    @property
    def endpoint_url(self) -> str:
        return str(self.registration["task_queue_info"]["connection_url"])

    @property
    def task_queue(self) -> str:
        return str(self.registration["task_queue_info"]["queue"])

    def results(self) -> tuple[str, str]:
        """URL and queue."""
        answer = self.researcher.done("GET", "/v2/get_amqp_result_connection_url")
        return answer["connection_url"], f"{answer['queue_prefix']}{self.group}"


def make_side(researcher: Researcher, **asked: Any) -> Side:
    registration = researcher.register(**asked)
    function = researcher.register_function()
    submitted = researcher.submit(registration["endpoint_id"], function, [payload()])
    (task,) = submitted["tasks"][function]
    return Side(researcher, registration, task, submitted["task_group_id"])


@pytest.fixture
def ours(alice: Researcher) -> Side:
    return make_side(alice)


@pytest.fixture
def theirs(bob: Researcher) -> Side:
    return make_side(bob)


@pytest.fixture(params=["endpoint", "researcher"])
def intruder(request: pytest.FixtureRequest, ours: Side) -> Iterator[Broker]:
    """One of our accounts, with which to try what concerns theirs."""
    url = ours.endpoint_url if request.param == "endpoint" else ours.results()[0]
    with connected(url) as broker:
        yield broker


def assert_refused(broker: Broker, method: str, **arguments: Any) -> None:
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        getattr(broker.channel, method)(**arguments)
        broker.connection.process_data_events(1)
    assert caught.value.reply_code == ACCESS_REFUSED


def test_what_an_endpoint_is_for(ours: Side) -> None:
    with connected(ours.endpoint_url) as endpoint:
        ((method, properties, body),) = endpoint.take(ours.task_queue)
        assert properties.headers["task_uuid"] == ours.task
        endpoint.publish(heartbeat(ours.endpoint), ours.registration["heartbeat_queue_info"])
        endpoint.publish(result_for(body), ours.registration["result_queue_info"])
        endpoint.channel.basic_ack(method.delivery_tag)
    url, queue = ours.results()
    with connected(url) as researcher:
        ((method, properties, body),) = researcher.take(queue)
        researcher.channel.basic_ack(method.delivery_tag, multiple=True)
    assert str(parsed_result(body).task_id) == ours.task
    assert properties.timestamp
    assert properties.headers["high_assurance"] is False


def test_passive_declares_which_the_peer_makes(ours: Side) -> None:
    with connected(ours.endpoint_url) as endpoint:
        for info in ("task_queue_info", "result_queue_info", "heartbeat_queue_info"):
            endpoint.channel.queue_declare(ours.registration[info]["queue"], passive=True)
            exchange = ours.registration[info]["exchange"]
            endpoint.channel.exchange_declare(exchange, passive=True)


@pytest.mark.parametrize("what", ["tasks", "commands", "results", "services", "heartbeats"])
def test_reading_what_is_others(intruder: Broker, theirs: Side, bob: Researcher, what: str) -> None:
    manager = bob.register(multi_user=True)
    queue = {
        "tasks": theirs.task_queue,
        "commands": manager["command_queue_info"]["queue"],
        "results": theirs.results()[1],
        "services": "services.results",
        "heartbeats": "services.heartbeats",
    }[what]
    assert_refused(intruder, "basic_get", queue=queue)
    intruder.channel = intruder.connection.channel()
    assert_refused(intruder, "basic_consume", queue=queue, on_message_callback=print)


def test_a_researcher_reads_no_tasks_and_an_endpoint_no_results(ours: Side) -> None:
    url, queue = ours.results()
    with connected(url) as researcher:
        assert_refused(researcher, "basic_get", queue=ours.task_queue)
    with connected(ours.endpoint_url) as endpoint:
        assert_refused(endpoint, "basic_get", queue=queue)


@pytest.mark.parametrize("exchange", ["", "amq.direct", "amq.topic", "amq.fanout"])
def test_publishing_to_others_queues(intruder: Broker, theirs: Side, exchange: str) -> None:
    for queue in (theirs.task_queue, theirs.results()[1]):
        intruder.channel = intruder.connection.channel()
        intruder.channel.confirm_delivery()
        assert_refused(
            intruder, "basic_publish", exchange=exchange, routing_key=queue, body=b"\x01{}"
        )


def test_an_endpoint_publishes_to_no_queue_of_its_own_either(ours: Side) -> None:
    with connected(ours.endpoint_url) as endpoint:
        assert_refused(
            endpoint, "basic_publish", exchange="", routing_key=ours.task_queue, body=b""
        )


@pytest.mark.parametrize("exchange", ["results", "heartbeats"])
def test_publishing_as_another_endpoint(intruder: Broker, theirs: Side, exchange: str) -> None:
    key = f"{theirs.endpoint}.{exchange}"
    assert_refused(intruder, "basic_publish", exchange=exchange, routing_key=key, body=b"")


def test_keys_that_only_begin_like_its_own(ours: Side) -> None:
    own = f"{ours.endpoint}.results"
    for key in (f"{own}.more", f"x{own}", f"{ours.endpoint}xresults", ours.endpoint):
        with connected(ours.endpoint_url) as endpoint:
            assert_refused(endpoint, "basic_publish", exchange="results", routing_key=key, body=b"")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("queue_declare", {"queue": "mine"}),
        ("exchange_declare", {"exchange": "mine"}),
        ("queue_delete", {"queue": "services.results"}),
        ("queue_purge", {"queue": "services.results"}),
        (
            "queue_bind",
            {"queue": "services.results", "exchange": "results", "routing_key": "#"},
        ),
        ("exchange_delete", {"exchange": "results"}),
    ],
)
def test_changing_the_broker(intruder: Broker, method: str, arguments: dict[str, Any]) -> None:
    assert_refused(intruder, method, **arguments)


def test_emptying_anothers_queue(intruder: Broker, theirs: Side) -> None:
    assert_refused(intruder, "queue_purge", queue=theirs.task_queue)


def test_finishing_anothers_task(services: Services, ours: Side, theirs: Side) -> None:
    """With our own key the broker lets it through, and the services do not."""
    with connected(theirs.endpoint_url) as endpoint:
        ((method, _, body),) = endpoint.take(theirs.task_queue)
        with connected(ours.endpoint_url) as forger:
            forger.publish(result_for(body, "forged"), ours.registration["result_queue_info"])
        endpoint.publish(result_for(body, "true"), theirs.registration["result_queue_info"])
        endpoint.channel.basic_ack(method.delivery_tag)
    url, queue = theirs.results()
    with connected(url) as researcher:
        ((_, _, body),) = researcher.take(queue)
        assert value_in(body) == "true"
        assert researcher.nothing_in(queue)
    assert f"it is not a task of endpoint {ours.endpoint}" in services.log_text()


def test_a_result_counts_once(ours: Side) -> None:
    with connected(ours.endpoint_url) as endpoint:
        ((_, _, body),) = endpoint.take(ours.task_queue)
        for value in ("first", "second"):
            endpoint.publish(result_for(body, value), ours.registration["result_queue_info"])
    url, queue = ours.results()
    with connected(url) as researcher:
        ((_, _, body),) = researcher.take(queue)
        assert value_in(body) == "first"
        assert researcher.nothing_in(queue)


def test_a_heartbeat_for_another_endpoint(ours: Side, theirs: Side) -> None:
    with connected(ours.endpoint_url) as forger:
        forger.publish(heartbeat(theirs.endpoint), ours.registration["heartbeat_queue_info"])
        forger.publish(heartbeat(ours.endpoint), ours.registration["heartbeat_queue_info"])
    status = f"/v2/endpoints/{ours.endpoint}/status"
    wait_for(lambda: ours.researcher.done("GET", status)["status"] == "online")
    status = f"/v2/endpoints/{theirs.endpoint}/status"
    assert theirs.researcher.done("GET", status)["status"] == "offline"


def test_garbage_is_dropped(services: Services, ours: Side) -> None:
    with connected(ours.endpoint_url) as endpoint:
        ((_, _, body),) = endpoint.take(ours.task_queue)
        for exchange in ("results", "heartbeats"):
            for garbage in (*GARBAGE, body):
                key = f"{ours.endpoint}.{exchange}"
                endpoint.channel.basic_publish(exchange, key, garbage, mandatory=True)
        kwargs = ours.registration["heartbeat_queue_info"]["queue_publish_kwargs"]
        raw = b'\x01{"message_type": "ep_status_report", "data": {"endpoint_id": "%s", ' % (
            ours.endpoint.encode()
        )
        raw += b'"global_state": {"a": NaN, "b": "\\ud800"}, "task_statuses": {}}}'
        endpoint.channel.basic_publish(kwargs["exchange"], kwargs["routing_key"], raw)
        endpoint.publish(result_for(body), ours.registration["result_queue_info"])
    url, queue = ours.results()
    with connected(url) as researcher:
        assert len(researcher.take(queue)) == 1


def test_the_management_api_is_closed_to_them(ours: Side) -> None:
    for url in (ours.endpoint_url, ours.results()[0]):
        parts = urlsplit(url)
        assert parts.username is not None
        assert parts.password is not None
        answer = httpx.get(
            "http://127.0.0.1:15672/api/users", auth=(parts.username, parts.password)
        )
        assert answer.status_code == 401


def test_old_credentials_end_with_a_new_registration(ours: Side) -> None:
    asked = {"endpoint_name": "test", "metadata": {"hostname": "here"}}
    ours.researcher.done("PUT", f"/v3/endpoints/{ours.endpoint}", asked)
    with (
        pytest.raises(pika.exceptions.ProbableAuthenticationError),
        connected(ours.endpoint_url),
    ):
        pass


def test_two_processes_of_one_researcher(ours: Side) -> None:
    first, queue = ours.results()
    second, _ = ours.results()
    with connected(first) as one, connected(second) as other:
        assert one.channel.basic_get(queue)[0] is None
        assert other.channel.basic_get(queue)[0] is None


def test_an_endpoint_has_no_name_but_its_own(alice: Researcher) -> None:
    """Endpoints cannot choose their ids, so none can take over another's queues."""
    wanted = str(uuid.uuid4())
    assert alice.register(endpoint_id=wanted)["endpoint_id"] != wanted
