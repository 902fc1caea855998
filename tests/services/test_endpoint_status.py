# SPDX-License-Identifier: Apache-2.0
"""What a heartbeat says of an endpoint reaches whom it may reach, and no more of it."""

from typing import Any

from services.harness import Researcher, connected, heartbeat, wait_for

FIGURES = {
    "engine_type": "GlobusComputeEngine",
    "total_workers": 8,
    "idle_workers": 1,
    "pending_tasks": 0,
    "outstanding_tasks": 7,
    "scaling_enabled": True,
    "max_blocks": 5,
    "blocks_running": 4,
    "blocks_pending": 1,
    "managers": 4,
}
JOB = {"job_id": "17", "block": "0", "state": "RUNNING", "since": 1795412263, "hosts": ["n1"]}
NAMES = {"hostname": "login1", "local_user": "alice", "pid": 4711, "jobs": [JOB]}
SCRIPT = """
import json, sys
from globus_compute_sdk import Client
print(json.dumps(Client().get_endpoint_status(sys.argv[1])))
"""


def send(registration: dict[str, Any], **state: Any) -> None:
    info = registration["heartbeat_queue_info"]
    with connected(info["connection_url"]) as endpoint:
        endpoint.publish(heartbeat(registration["endpoint_id"], **state), info)


def details(reader: Researcher, endpoint: str) -> dict[str, Any]:
    answer: dict[str, Any] = reader.done("GET", f"/v2/endpoints/{endpoint}/status")
    return {"status": answer["status"], **answer["details"]}


def test_its_owner_sees_figures_and_jobs_with_the_sdk(alice: Researcher) -> None:
    registration = alice.register()
    endpoint = registration["endpoint_id"]
    send(registration, **FIGURES, **NAMES)
    wait_for(lambda: details(alice, endpoint)["status"] == "online")
    told = {"heartbeat_period": 30, **FIGURES, **NAMES}
    assert alice.sdk(SCRIPT, endpoint) == {"status": "online", "details": told}
    send(registration, active=False, total_workers=0)
    wait_for(lambda: details(alice, endpoint)["status"] == "offline")
    assert details(alice, endpoint)["total_workers"] == 0


def test_others_see_no_names_of_machines_jobs_and_accounts(
    alice: Researcher, bob: Researcher
) -> None:
    registration = alice.register(multi_user=True)
    endpoint = registration["endpoint_id"]
    send(registration, **FIGURES, **NAMES)
    wait_for(lambda: details(alice, endpoint)["status"] == "online")
    assert details(bob, endpoint) == {"status": "online", "heartbeat_period": 30, **FIGURES}
    assert details(alice, endpoint)["jobs"] == [JOB]


def test_what_makes_no_sense_is_dropped_and_the_heartbeat_counts(alice: Researcher) -> None:
    registration = alice.register()
    endpoint = registration["endpoint_id"]
    send(
        registration,
        **{**FIGURES, "total_workers": -1, "managers": "many"},
        jobs=[JOB] * 101,
        hostname="x" * 400,
        local_user="al\x1b[31mice",
        config_raw="engine: {}",
        pid={"a": {}},
    )
    wait_for(lambda: details(alice, endpoint)["status"] == "online")
    told = details(alice, endpoint)
    sound = set(FIGURES) - {"total_workers", "managers"}
    assert set(told) == sound | {"status", "heartbeat_period", "local_user"}
    assert told["local_user"] == "al?[31mice"
