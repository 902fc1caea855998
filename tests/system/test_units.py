# SPDX-License-Identifier: Apache-2.0
"""How the units start, fail, restart and stop, and what of the users' work outlives that."""

import json
import time
import uuid

import pytest

from support.waiting import until

THREADS = "ThreadPoolEngine"
# The socket first: while systemd has it, a connection starts the services again.
SERVICES_UNITS = ("globus-compute-services.socket", "globus-compute-services.service")


def wait_and_tell(seconds):
    import os
    import time

    time.sleep(seconds)
    return os.getpid()


def main_pids(warm):
    units = ("", "-gateway", "-spawner")
    return {
        unit: warm.property(f"globus-compute-endpoint{unit}@{warm.name}.service", "MainPID")
        for unit in units
    }


def disturb(warm, action):
    """Do something to the units while a task runs; the task's outcome and the pids around it."""
    person = warm.researcher("alice")
    before = person.call(wait_and_tell, 0, engine=THREADS)
    command = person.command((wait_and_tell, (6,)), engine=THREADS)
    with person.host.background(*command, environment=person.environment) as process:
        time.sleep(2.5)
        action()
        said, _ = process.communicate(timeout=60)
    during = json.loads(said)
    until(lambda: warm.property(warm.unit, "ActiveState") == "active")
    after = person.call(wait_and_tell, 0, engine=THREADS)
    return before, during.get("value"), after


@pytest.mark.parametrize(
    ("unit", "action"),
    [
        ("", "restart"),
        ("", "kill"),
        ("-spawner", "kill"),
        pytest.param("-gateway", "restart", marks=pytest.mark.long),
        pytest.param("-gateway", "kill", marks=pytest.mark.long),
        pytest.param("-spawner", "restart", marks=pytest.mark.long),
    ],
)
def test_user_endpoints_outlive_the_units(warm, unit, action):
    full = f"globus-compute-endpoint{unit}@{warm.name}.service"
    pids = main_pids(warm)
    kill = ("systemctl", "kill", "--signal=KILL", "--kill-who=main", full)
    restart = ("systemctl", "restart", full)
    command = restart if action == "restart" else kill
    before, during, after = disturb(warm, lambda: warm.host.run(*command))
    assert before == during == after, "the same process went on"
    assert main_pids(warm)[unit] != pids[unit], "the unit's process is another"


def kill_while_it_works(warm, person):
    """Kill the user endpoint under a task; its pid, the task's error, how long that took."""
    pid = person.call(wait_and_tell, 0, engine=THREADS)
    command = person.command((wait_and_tell, (30,)), engine=THREADS)
    with person.host.background(*command, environment=person.environment) as process:
        time.sleep(3)
        began = time.monotonic()
        warm.host.run("kill", "-KILL", str(pid))
        said, _ = process.communicate(timeout=60)
    return pid, json.loads(said)["error"], time.monotonic() - began


def test_why_a_user_endpoint_died_is_in_the_error_of_the_task_it_cut_short(warm):
    person = warm.researcher("bob")
    # This one may have been adopted after a restart: then nobody is left who knows how it ended.
    adopted, error, _ = kill_while_it_works(warm, person)
    assert "TaskInterrupted" in error
    pid, error, took = kill_while_it_works(warm, person)
    assert pid != adopted
    assert "SIGKILL" in error
    assert took < 10
    assert person.call(wait_and_tell, 0, engine=THREADS) not in (adopted, pid)


def test_stop_ends_all_of_it_and_start_brings_it_back(warm):
    person = warm.researcher("alice")
    person.call(wait_and_tell, 0, engine=THREADS)
    assert warm.scopes()
    warm.host.run("systemctl", "stop", warm.unit)
    assert warm.scopes() == []
    for unit in ("", "-gateway", "-spawner"):
        full = f"globus-compute-endpoint{unit}@{warm.name}.service"
        assert warm.property(full, "ActiveState") == "inactive", unit
        assert warm.property(full, "Result") == "success", unit
    warm.host.run("systemctl", "start", warm.unit)
    assert person.call(wait_and_tell, 0, engine=THREADS)


@pytest.mark.parametrize(
    ("file", "content", "status"),
    [
        ("config.yaml", "multi_user: true\nunheard_of: 1\n", 78),
        pytest.param("user_config_schema.json", '{"type": 3}', 78, marks=pytest.mark.long),
        pytest.param("identity_mapping.json", "[{", 78, marks=pytest.mark.long),
        ("identity_mapping.json", None, 77),
        ("gateway.env", "", 77),
        pytest.param(
            "gateway.env",
            "GLOBUS_COMPUTE_CLIENT_ID=x\nGLOBUS_COMPUTE_CLIENT_SECRET=y\n",
            77,
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_no_retry_mends_fails_the_unit_with_its_status(warm, file, content, status):
    path = f"/etc/globus-compute-endpoint/{warm.name}/{file}"
    before = warm.host.read(path)
    warm.host.run("systemctl", "stop", warm.unit)
    try:
        warm.host.write(path, content or "")
        if content is None:
            warm.host.run("rm", path)
        warm.host.run("systemctl", "start", warm.unit, check=False)
        until(lambda: warm.property(warm.unit, "ActiveState") == "failed", 40)
        assert warm.property(f"{warm.unit}.service", "ExecMainStatus") == str(status)
        assert int(warm.property(f"{warm.unit}.service", "NRestarts")) == 0
    finally:
        warm.host.write(path, before, mode=0o600 if file == "gateway.env" else 0o644)
        warm.host.run("systemctl", "reset-failed", "globus-compute-endpoint*", check=False)
        warm.host.run("systemctl", "restart", warm.unit)


def test_an_endpoint_which_the_services_do_not_know_fails_its_unit(warm):
    path = f"/var/lib/globus-compute-endpoint/{warm.name}/gateway/endpoint.json"
    before = warm.host.read(path)
    warm.host.run("systemctl", "stop", warm.unit)
    try:
        warm.host.write(path, json.dumps({"endpoint_id": str(uuid.uuid4())}))
        warm.host.run("systemctl", "start", warm.unit, check=False)
        until(lambda: warm.property(warm.unit, "ActiveState") == "failed", 40)
        assert warm.property(f"{warm.unit}.service", "ExecMainStatus") == "69"
        gateway = f"globus-compute-endpoint-gateway@{warm.name}.service"
        assert warm.property(gateway, "ExecMainStatus") == "69"
    finally:
        warm.host.write(path, before)
        warm.host.run("systemctl", "reset-failed", "globus-compute-endpoint*", check=False)
        warm.host.run("systemctl", "restart", warm.unit)


@pytest.mark.long
def test_without_services_it_is_ready_in_the_end_and_says_what_it_waits_for(warm):
    warm.host.run("systemctl", "stop", warm.unit)
    warm.services.run("systemctl", "stop", *SERVICES_UNITS)
    try:
        began = time.monotonic()
        warm.host.run("systemctl", "start", warm.unit)
        assert 25 < time.monotonic() - began < 40
        assert "waiting for the web services" in warm.property(warm.unit, "StatusText")
    finally:
        warm.services.run("systemctl", "start", *SERVICES_UNITS)
    until(lambda: "registered as" in warm.property(warm.unit, "StatusText"), 60)
    assert warm.researcher("alice").call(wait_and_tell, 0, engine=THREADS)
