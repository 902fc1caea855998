# SPDX-License-Identifier: Apache-2.0
"""What is of no use to anyone is forgotten; what is, is kept, however old."""

import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.harness import Researcher, Services, connected, payload, result_for, wait_for

MONTH_S = 30 * 24 * 3600


def accounts() -> str:
    command = ["rabbitmqctl", "-q", "-p", "globus-compute", "list_permissions"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def finish(registration: dict[str, Any], task: str, alice: Researcher) -> None:
    queue = registration["task_queue_info"]
    with connected(queue["connection_url"]) as endpoint:
        ((method, _, body),) = endpoint.take(queue["queue"])
        endpoint.publish(result_for(body), registration["result_queue_info"])
        endpoint.channel.basic_ack(method.delivery_tag)
    wait_for(lambda: alice.done("GET", f"/v2/tasks/{task}")["status"] == "success")


def age(services: Services, *statements: str) -> None:
    """Stop the services, let a month pass in their database, start them."""
    services.stop()
    with sqlite3.connect(services.directory / "services.sqlite3") as database:
        for statement in statements:
            database.execute(statement, {"then": time.time() - MONTH_S})
    database.close()
    services.start()


def test_task_groups_are_kept_while_they_have_work(services: Services, alice: Researcher) -> None:
    registration = alice.register()
    function = alice.register_function()
    done, open_ = (
        alice.submit(registration["endpoint_id"], function, [payload()]) for _ in range(2)
    )
    finish(registration, done["tasks"][function][0], alice)
    age(services, "UPDATE task_groups SET touched = :then")
    gone = f"/v2/taskgroup/{done['task_group_id']}"
    wait_for(lambda: alice.call("GET", gone).status_code == 404)
    alice.refused(404, "GET", f"/v2/tasks/{done['tasks'][function][0]}")
    alice.done("GET", f"/v2/taskgroup/{open_['task_group_id']}")


def test_expired_tokens_and_accounts(services: Services, alice: Researcher) -> None:
    alice.done("GET", "/v2/get_amqp_result_connection_url")
    assert f"res.{alice.identity}" in accounts()
    age(
        services,
        "UPDATE tokens SET expires = :then",
        "UPDATE broker_accounts SET expires = :then",
    )
    alice.refused(401, "GET", "/v2/endpoints")
    alice.forget_token()
    wait_for(lambda: f"res.{alice.identity}" not in accounts(), 0.5)
    answer = alice.done("GET", "/v2/get_amqp_result_connection_url")
    with connected(answer["connection_url"]):
        pass


def test_accounts_of_endpoints_that_are_no_more(services: Services, alice: Researcher) -> None:
    gone, kept = (alice.register()["endpoint_id"] for _ in range(2))
    age(services, f"DELETE FROM endpoints WHERE id = '{UUID(gone).hex}'")
    wait_for(lambda: gone not in accounts(), 0.5)
    assert f"ep.{kept}" in accounts()


@pytest.mark.parametrize("busy", [True, False])
def test_user_endpoints_long_unused(services: Services, alice: Researcher, busy: bool) -> None:
    manager = alice.register(multi_user=True)["endpoint_id"]
    function = alice.register_function()
    alice.submit(manager, function, [payload()])
    statements = ["UPDATE endpoints SET created = :then WHERE kind = 'user'"]
    if not busy:
        statements.append("DELETE FROM tasks")
    age(services, *statements)
    if busy:
        time.sleep(1)
    wait_for(lambda: user_endpoints_of(services.directory, manager) == int(busy))


def user_endpoints_of(directory: Path, manager: str) -> int:
    with sqlite3.connect(f"file:{directory}/services.sqlite3?mode=ro", uri=True) as database:
        found = database.execute(
            "SELECT count(*) FROM endpoints WHERE manager_id = ?", (UUID(manager).hex,)
        )
        return int(found.fetchone()[0])
