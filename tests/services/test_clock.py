# SPDX-License-Identifier: Apache-2.0
"""The clock of the services' host is set by an hour while they run."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.harness import (
    Manager,
    Researcher,
    Services,
    connected,
    heartbeat,
    payload,
    result_for,
    wait_for,
)
from support.clock import Clock

HOUR = 3600


@pytest.fixture
def clock(services: Services, tmp_path: Path) -> Iterator[Clock]:
    """The services' clock, which they are started anew to get."""
    clock = Clock(tmp_path / "offset")
    services.stop()
    services.start(clock.environment)
    yield clock
    services.stop()
    services.start()


@pytest.mark.parametrize("step", [pytest.param(HOUR, marks=pytest.mark.long), -HOUR])
def test_a_step_loses_nothing_and_is_over_with_the_next_heartbeat(
    clock: Clock, alice: Researcher, step: int
) -> None:
    manager = Manager(alice)
    manager.show_itself()
    function = alice.register_function()
    submitted = alice.submit(manager.id, function, [payload()])
    (task,) = submitted["tasks"][function]
    first, _ = manager.command()
    user_endpoint = first["kwargs"]["amqp_creds"]
    with connected(user_endpoint["task_queue_info"]["connection_url"]) as running:
        report = heartbeat(user_endpoint["endpoint_id"], heartbeat_period=1)
        running.publish(report, user_endpoint["heartbeat_queue_info"])
        status = f"/v2/endpoints/{manager.id}/status"
        wait_for(lambda: alice.done("GET", status)["status"] == "online")
        clock.step(step)
        assert alice.done("GET", status)["status"] == "offline"
        manager.show_itself()
        wait_for(lambda: alice.done("GET", status)["status"] == "online")
        # It has died: that is noticed as soon as ever, and the command counts as a new one there.
        again, properties = manager.command()
        assert again == first
        assert abs(properties.timestamp - (time.time() + step)) < 30
        (message,) = running.take(user_endpoint["task_queue_info"]["queue"])
        running.publish(result_for(message[2]), user_endpoint["result_queue_info"])
        wait_for(lambda: alice.done("GET", f"/v2/tasks/{task}")["status"] == "success")
    manager.broker.close()
