# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL goes away and comes back."""

from __future__ import annotations

import subprocess

import pytest

from services.harness import Researcher, Services, payload, tasks_of, wait_for

DATABASES = ("postgresql",)

pytestmark = pytest.mark.long


def postgresql(verb: str) -> None:
    subprocess.run(["systemctl", verb, "postgresql@15-main"], check=True, timeout=120)


def test_what_cannot_be_stored_is_not_accepted(services: Services, alice: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function()
    group = alice.submit(endpoint, function, [payload(0)])["task_group_id"]
    path = f"/v3/endpoints/{endpoint}/submit"
    document = {"tasks": {function: [payload(1)]}, "task_group_id": group, "create_queue": True}
    postgresql("stop")
    try:
        assert "their database" in alice.refused(503, "POST", path, document)
    finally:
        postgresql("start")
    wait_for(lambda: alice.call("POST", path, document).status_code == 200, 0.3, 60)
    assert len(tasks_of(alice, group)) == 2
