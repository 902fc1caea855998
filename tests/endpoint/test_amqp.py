# SPDX-License-Identifier: Apache-2.0
"""Connection, consumer and publisher against a real broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from endpoint.conftest import rabbitmqctl
from endpoint.tls import front, make_certificates
from globus_compute_endpoint.amqp import (
    ChannelUser,
    Connection,
    Consumer,
    Delivery,
    Publisher,
    QueueInfo,
    ResultQueueInfo,
    Unroutable,
    publish_once,
)
from globus_compute_endpoint.backoff import Backoff

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


@asynccontextmanager
async def connected(url: SecretStr, *users: ChannelUser) -> AsyncIterator[Connection]:
    up = asyncio.Event()
    connection = Connection(url, name="test", on_up=up.set, backoff=Backoff(0.1, 0.5))
    for user in users:
        connection.add(user)
    task = asyncio.create_task(connection.run())
    await asyncio.wait_for(up.wait(), 10)
    yield connection
    await asyncio.wait_for(connection.close(), 10)
    await asyncio.wait_for(task, 10)


async def close_connections() -> None:
    await asyncio.to_thread(rabbitmqctl, "close_all_connections", "test")


async def test_messages_go_round_in_order(queue: QueueInfo, destination: ResultQueueInfo):
    seen: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = Consumer(queue.queue, seen.put_nowait, prefetch=10)
    publisher = Publisher(destination.queue_publish_kwargs)
    async with connected(queue.connection_url, consumer, publisher):
        sent = [b"%d" % n for n in range(100)]
        confirms = [publisher.publish(body) for body in sent]
        received = []
        for _ in sent:
            delivery = await asyncio.wait_for(seen.get(), 5)
            received.append(delivery.body)
            delivery.ack()
        await asyncio.wait_for(asyncio.gather(*confirms), 5)
        assert received == sent
        assert publisher.outstanding == 0


async def test_no_more_than_prefetch_are_delivered(queue: QueueInfo, destination: ResultQueueInfo):
    seen: list[Delivery] = []
    third = asyncio.Event()

    def on_message(delivery: Delivery) -> None:
        seen.append(delivery)
        if len(seen) == 3:
            third.set()

    consumer = Consumer(queue.queue, on_message, prefetch=2)
    publisher = Publisher(destination.queue_publish_kwargs)
    async with connected(queue.connection_url, consumer, publisher):
        await asyncio.gather(*[publisher.publish(b"x") for _ in range(5)])
        await asyncio.sleep(0.3)
        assert len(seen) == 2
        seen[0].ack()
        await asyncio.wait_for(third.wait(), 5)


async def test_what_cannot_be_routed_is_a_failure(destination: ResultQueueInfo):
    lost = destination.queue_publish_kwargs.model_copy(update={"routing_key": "nobody"})
    publisher = Publisher(lost)
    async with connected(destination.connection_url, publisher):
        with pytest.raises(Unroutable, match="NO_ROUTE"):
            await asyncio.wait_for(publisher.publish(b"x"), 5)
        publisher.redirect(destination.queue_publish_kwargs)
        await asyncio.wait_for(publisher.publish(b"x"), 5)


async def test_it_comes_back_and_sends_what_waits(queue: QueueInfo, destination: ResultQueueInfo):
    seen: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = Consumer(queue.queue, seen.put_nowait, prefetch=10)
    publisher = Publisher(destination.queue_publish_kwargs)
    async with connected(queue.connection_url, consumer, publisher):
        await publisher.publish(b"before")
        first = await asyncio.wait_for(seen.get(), 5)
        await close_connections()
        confirm = publisher.publish(b"meanwhile")
        await asyncio.wait_for(confirm, 10)
        again = await asyncio.wait_for(seen.get(), 5)
        after = await asyncio.wait_for(seen.get(), 5)
        assert (again.body, again.redelivered) == (b"before", True)
        assert after.body == b"meanwhile"
        first.ack()  # of a channel which is gone: without effect
        again.ack()
        after.ack()


async def test_wrong_credentials_are_retried_until_fresh_ones_come(
    queue: QueueInfo, destination: ResultQueueInfo
):
    publisher = Publisher(destination.queue_publish_kwargs)
    connection = Connection(
        SecretStr("amqp://guest:wrong@127.0.0.1:5672/%2F"), name="test", backoff=Backoff(60, 60)
    )
    connection.add(publisher)
    task = asyncio.create_task(connection.run())
    confirm = publisher.publish(b"x")
    await asyncio.sleep(1)
    assert not confirm.done()
    connection.replace_url(queue.connection_url)
    await asyncio.wait_for(confirm, 5)
    await connection.close()
    await asyncio.wait_for(task, 5)


async def test_fresh_credentials_move_an_open_connection(
    queue: QueueInfo, destination: ResultQueueInfo
):
    publisher = Publisher(destination.queue_publish_kwargs)
    rabbitmqctl("add_user", "fresh", "pw")
    rabbitmqctl("set_permissions", "fresh", ".*", ".*", ".*")
    async with connected(queue.connection_url, publisher) as connection:
        connection.replace_url(SecretStr("amqp://fresh:pw@127.0.0.1:5672/%2F"))
        await asyncio.wait_for(publisher.publish(b"x"), 10)
        users = await asyncio.to_thread(rabbitmqctl, "list_connections", "user")
        assert "fresh" in users
    rabbitmqctl("delete_user", "fresh")


async def test_credentials_which_are_good_again_are_tried_at_once(
    queue: QueueInfo, destination: ResultQueueInfo
):
    rabbitmqctl("add_user", "again", "pw")
    rabbitmqctl("set_permissions", "again", ".*", ".*", ".*")
    rabbitmqctl("change_password", "again", "other")
    url = SecretStr("amqp://again:pw@127.0.0.1:5672/%2F")
    publisher = Publisher(destination.queue_publish_kwargs)
    refused = asyncio.Event()
    connection = Connection(
        url, name="test", backoff=Backoff(60, 60), on_down=lambda _: refused.set()
    )
    connection.add(publisher)
    task = asyncio.create_task(connection.run())
    confirm = publisher.publish(b"x")
    await asyncio.wait_for(refused.wait(), 10)
    rabbitmqctl("change_password", "again", "pw")
    connection.replace_url(url)
    await asyncio.wait_for(confirm, 5)
    await connection.close()
    await asyncio.wait_for(task, 5)
    rabbitmqctl("delete_user", "again")


async def test_a_second_exclusive_consumer_waits_its_turn(
    queue: QueueInfo, destination: ResultQueueInfo
):
    seen: asyncio.Queue[Delivery] = asyncio.Queue()
    consuming = asyncio.Event()
    first = Consumer(queue.queue, lambda _: None, prefetch=1)
    second = Consumer(queue.queue, seen.put_nowait, prefetch=1, on_consuming=consuming.set)
    waiting = Connection(queue.connection_url, name="test", backoff=Backoff(0.1, 0.2))
    waiting.add(second)
    async with connected(queue.connection_url, first):
        task = asyncio.create_task(waiting.run())
        await asyncio.sleep(0.5)
        assert not second.ready
    await asyncio.wait_for(consuming.wait(), 10)
    await publish_once(destination, b"x", name="test")
    assert (await asyncio.wait_for(seen.get(), 5)).body == b"x"
    await waiting.close()
    await asyncio.wait_for(task, 5)


async def test_publish_once_gives_up_in_time(destination: ResultQueueInfo):
    nowhere = destination.model_copy(
        update={"connection_url": SecretStr("amqp://guest:guest@127.0.0.1:1/%2F")}
    )
    with pytest.raises(TimeoutError):
        await publish_once(nowhere, b"x", name="test", timeout=1)


async def test_amqps_with_a_private_authority_on_another_port(
    destination: ResultQueueInfo, tmp_path: Path
):
    made = make_certificates(tmp_path)
    secured = destination.model_copy(
        update={"connection_url": SecretStr("amqps://guest:guest@127.0.0.1:5671/%2F")}
    )
    async with front(made) as port:
        options: dict[str, Any] = {"name": "test", "port": port, "timeout": 5}
        await publish_once(secured, b"x", ca_file=made.authority, **options)
        handed = made.authority.read_text()
        await publish_once(secured, b"x", ca_certificates=handed, **options)
        with pytest.raises(TimeoutError):  # an authority which nobody has told us to trust
            await publish_once(secured, b"x", **options)
