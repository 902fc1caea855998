# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ cuts whoever holds a message for a minute, and there is work for several.

By default it is half an hour: in this proportion the work is for hours.
"""

import re

import pytest

THREADS = "ThreadPoolEngine"
TASKS = 120
SECONDS = 3
PYTHON = "/usr/lib/globus-compute-services/bin/python"
PATIENCE = TASKS * SECONDS  # twice what two threads take

pytestmark = pytest.mark.timeout(PATIENCE + 300)


def slow(number, seconds):
    import os
    import time

    with open(os.path.expanduser("~/slow"), "a") as record:
        record.write(f"{number}\n")
    time.sleep(seconds)
    return number


# Holds a message for as long as it is let.
HOLDER = """
import pika

where = pika.URLParameters("amqp://holder:holder@127.0.0.1:5672/%2f?heartbeat=0")
channel = pika.BlockingConnection(where).channel()
channel.queue_declare("held", exclusive=True)
channel.basic_publish("", "held", b"")
channel.basic_consume("held", lambda *_: None)
try:
    channel.start_consuming()
except pika.exceptions.ChannelClosedByBroker as error:
    print(error)
"""


def cuts(broker):
    """What the broker says of messages held for too long."""
    log = broker.run("sh", "-c", "cat /var/log/rabbitmq/*.log").stdout
    return re.findall(r"precondition_failed.*timed out.*", log)


def test_no_consumer_is_cut_and_nothing_runs_twice(warm):
    broker = warm.services
    setting = "application:set_env(rabbit, consumer_timeout, {})."
    broker.run("rabbitmqctl", "-q", "eval", setting.format(60_000))
    broker.run("rabbitmqctl", "-q", "add_user", "holder", "holder")
    broker.run("rabbitmqctl", "-q", "set_permissions", "holder", ".*", ".*", ".*")
    try:
        # Channels know it from their opening on.
        broker.run("rabbitmqctl", "-q", "close_all_connections", "for their consumer_timeout")
        person = warm.researcher("alice").waiting(PATIENCE)
        calls = [(slow, (number, SECONDS)) for number in range(TASKS)]
        with broker.background(PYTHON, "-c", HOLDER) as holder:
            outcomes = person.outcomes(*calls, engine=THREADS)
            said, _ = holder.communicate(timeout=60)
    finally:
        broker.run("rabbitmqctl", "-q", "eval", setting.format(1_800_000))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert [outcome.value for outcome in outcomes] == list(range(TASKS))
    ran = warm.host.run("cat", "/home/alice/slow").stdout.split()
    assert sorted(map(int, ran)) == list(range(TASKS))
    assert "PRECONDITION_FAILED" in said, "the broker cuts nobody"
    assert len(cuts(broker)) == 1, "another one than the holder was cut"
