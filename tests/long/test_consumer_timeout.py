# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ cuts whoever holds a message for a minute, and there is work for several."""

import re

import pytest

THREADS = "ThreadPoolEngine"
TASKS = 120
SECONDS = 3
PATIENCE = TASKS * SECONDS  # twice what two threads take

pytestmark = pytest.mark.timeout(PATIENCE + 300)


def slow(number, seconds):
    import os
    import time

    with open(os.path.expanduser("~/slow"), "a") as record:
        record.write(f"{number}\n")
    time.sleep(seconds)
    return number


def test_no_consumer_is_cut_and_nothing_runs_twice(warm):
    broker = warm.services
    setting = "application:set_env(rabbit, consumer_timeout, {})."
    broker.run("rabbitmqctl", "-q", "eval", setting.format(60_000))
    try:
        # Channels know it from their opening on.
        broker.run("rabbitmqctl", "-q", "close_all_connections", "for their consumer_timeout")
        person = warm.researcher("alice").waiting(PATIENCE)
        calls = [(slow, (number, SECONDS)) for number in range(TASKS)]
        outcomes = person.outcomes(*calls, engine=THREADS)
    finally:
        broker.run("rabbitmqctl", "-q", "eval", setting.format(1_800_000))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert [outcome.value for outcome in outcomes] == list(range(TASKS))
    ran = warm.host.run("cat", "/home/alice/slow").stdout.split()
    assert sorted(map(int, ran)) == list(range(TASKS))
    log = broker.run("sh", "-c", "cat /var/log/rabbitmq/*.log").stdout
    assert not re.findall(r".*(?:ack|consumer).*timed? ?out.*", log, re.IGNORECASE)
