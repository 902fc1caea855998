# SPDX-License-Identifier: Apache-2.0
"""The life of a single user's endpoint by its commands, with real services and processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from endpoint.personal import Person, create_client

pytestmark = pytest.mark.timeout(150)

_THREADS = "engine: {type: ThreadPoolEngine, max_workers: 2}\nheartbeat_period: 1\n"
_DOES_IT_WORK = """
import json, sys
from globus_compute_sdk import Executor

def dot_product(a, b):
    return sum(a_i * b_i for a_i, b_i in zip(a, b))

with Executor(endpoint_id=sys.argv[1]) as ex:
    print(json.dumps(ex.submit(dot_product, (1, 2, 3), (4, 5, 6)).result(60)))
"""

_LEAVES_A_PROCESS = """
import json, sys
from globus_compute_sdk import Executor

def leave():
    import subprocess
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

with Executor(endpoint_id=sys.argv[1]) as ex:
    print(json.dumps(ex.submit(leave).result(60)))
"""


def state(site: Person, name: str = "mine") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((site.endpoints / name / "state.json").read_text())
    return document


def rewrite_state(site: Person, name: str = "mine", **fields: object) -> None:
    path = site.endpoints / name / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def started(site: Person, name: str = "mine") -> str:
    said = site.told("start", name)
    match = re.fullmatch(r"Starting endpoint; registered ID: ([0-9a-f-]{36})\n", said)
    assert match, said
    return match[1]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def processes_of(site: Person, name: str = "mine") -> list[psutil.Process]:
    """What the endpoint has started, and itself."""
    leader = psutil.Process(state(site, name)["pid"])
    return [leader, *leader.children(recursive=True)]


def on_another_host(site: Person, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a host of another name, which has the same home directory."""
    command = [sys.executable, "-m", "globus_compute_endpoint", *arguments]
    return subprocess.run(
        ["unshare", "--uts", "sh", "-c", 'hostname login2; exec "$@"', "sh", *command],
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_from_configure_to_delete(site: Person):
    assert f"Configuration file: {site.endpoints}/mine/config.yaml" in site.told(
        "configure", "mine"
    )
    table = site.told("list").splitlines()
    assert re.fullmatch(r"\| +Endpoint ID +\| +Status +\| +Endpoint Name +\|", table[1])
    assert set(table[0]) == set("+-") and set(table[2]) == set("+=")
    # as wide as with an id and the longest state, so that it does not jump
    assert re.fullmatch(r"\| None {32} \| Initialized {2}\| mine +\|", table[3])

    endpoint_id = started(site)

    assert f"| {endpoint_id} | Running" in site.told("list")
    assert site.research(_DOES_IT_WORK, endpoint_id) == 32
    log = (site.endpoints / "mine/endpoint.log").read_text()
    assert log.startswith(f"========== Endpoint begins: {endpoint_id}\n")
    processes = processes_of(site)
    titles = [" ".join(each.cmdline()).strip() for each in processes]
    assert titles[0] == f"Globus Compute Endpoint ({endpoint_id}, mine)"
    assert any(title.startswith("parsl: HTEX interchange") for title in titles[1:])
    assert os.getsid(processes[0].pid) == processes[0].pid  # no terminal's hang-up reaches it

    assert site.told("stop", "mine") == "> Endpoint <mine> is now stopped\n"

    assert f"| {endpoint_id} | Stopped" in site.told("list")
    assert not [each for each in processes if each.is_running()]
    assert site.told("stop", "mine") == "> Endpoint <mine> is not running\n"
    unasked = site.run("delete", "mine")
    assert (unasked.returncode, "--yes" in unasked.stderr) == (78, True)
    assert "has been deleted" in site.told("delete", "--yes", "mine")
    assert json.loads(site.told("list", "--json")) == []
    asked = (
        f"from globus_compute_sdk import Client; Client().get_endpoint_metadata({endpoint_id!r})"
    )
    gone = subprocess.run(
        [sys.executable, "-c", asked],
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert gone.returncode != 0 and "404" in gone.stderr


def test_two_connections_to_the_broker(site: Person):
    site.configure("mine", _THREADS)
    started(site)
    pid = state(site)["pid"]
    opened = psutil.Process(pid).net_connections("tcp")
    assert len([each for each in opened if each.raddr and each.raddr.port == 5672]) == 2


def test_a_second_start_is_refused(site: Person):
    site.configure("mine", _THREADS)
    started(site)
    second = site.run("start", "mine")
    assert second.returncode == 73
    assert f"is running already (pid {state(site)['pid']})" in second.stderr
    running = site.run("delete", "--yes", "mine")
    assert (running.returncode, "stop it first" in running.stderr) == (73, True)
    before = state(site)["pid"]
    assert "Starting endpoint" in site.told("restart", "mine")
    assert state(site)["pid"] != before
    assert "has been deleted" in site.told("delete", "--yes", "--force", "mine")
    assert not psutil.pid_exists(before)


def test_a_restart_which_cannot_come_to_anything_costs_nothing(site: Person):
    site.configure("mine", _THREADS)
    started(site)
    before = state(site)
    refused = site.run("restart", "mine", environment={"GLOBUS_COMPUTE_CLIENT_SECRET": "wrong"})
    assert (refused.returncode, "was refused" in refused.stderr) == (77, True)
    other = Person(site.home, create_client("stranger", "stranger@example.org"))
    refused = other.run("restart", "mine")
    assert (refused.returncode, "belongs to someone else" in refused.stderr) == (77, True)
    (site.endpoints / "mine/config.yaml").write_text("engine: {type: None}\n")
    assert site.run("restart", "mine").returncode == 78
    assert state(site) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_signals_stop_it(site: Person, number: signal.Signals):
    site.configure("mine", _THREADS)
    endpoint_id = started(site)
    leader = psutil.Process(state(site)["pid"])
    leader.send_signal(number)
    leader.wait(20)
    assert site.status("mine") == "Stopped"
    assert started(site) == endpoint_id


def test_after_a_kill_it_is_disconnected_and_start_cleans_up(site: Person):
    site.configure("mine")  # the default engine: interchange, workers
    endpoint_id = started(site)
    left = psutil.Process(site.research(_LEAVES_A_PROCESS, endpoint_id))
    processes = processes_of(site)
    processes[0].kill()
    processes[0].wait(20)
    assert site.status("mine") == "Disconnected"
    assert left.is_running()
    assert started(site) == endpoint_id
    wait_until(lambda: not any(each.is_running() for each in [left, *processes]))
    assert site.status("mine") == "Running"
    assert site.research(_DOES_IT_WORK, endpoint_id) == 32


def test_a_pid_of_another_process_is_nobody(site: Person):
    site.configure("mine", _THREADS)
    started(site)
    leader = psutil.Process(state(site)["pid"])
    leader.kill()
    leader.wait(20)
    with subprocess.Popen(["sleep", "100"]) as other:
        rewrite_state(site, pid=other.pid)
        assert site.status("mine") == "Disconnected"
        assert "is now stopped" in site.told("stop", "mine")
        assert other.poll() is None
        other.kill()
    assert site.status("mine") == "Stopped"


def test_a_process_of_an_earlier_boot_is_nobody(site: Person):
    site.configure("mine", "engine: {type: ThreadPoolEngine}\n")  # no heartbeat looks meanwhile
    started(site)
    earlier = state(site)
    rewrite_state(site, boot_id="00000000-0000-0000-0000-000000000000")
    assert site.status("mine") == "Disconnected"
    rewrite_state(site, **earlier)
    assert site.status("mine") == "Running"


def test_a_state_file_that_is_garbled_does_not_hide_the_endpoint(site: Person):
    site.configure("mine", _THREADS)
    (site.endpoints / "mine/state.json").write_text("{")
    assert site.status("mine") == "Disconnected"
    started(site)
    assert site.status("mine") == "Running"


def test_a_state_file_from_which_nothing_can_be_told(site: Person):
    site.configure("mine", _THREADS)
    started(site)
    good = state(site)
    rewrite_state(site, pid=-5)
    assert site.status("mine") == "Disconnected"
    refused = site.run("stop", "mine")
    assert (refused.returncode, "daemon.pid" in refused.stderr) == (65, True), refused
    rewrite_state(site, **good)
    site.told("stop", "mine")


def test_of_two_starts_at_once_one_comes_to_something(site: Person):
    site.configure("mine", _THREADS)
    command = [sys.executable, "-m", "globus_compute_endpoint", "start", "mine"]
    both = [
        subprocess.Popen(
            command,
            env=site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [each.communicate(timeout=120) for each in both]
    assert sorted(each.returncode for each in both) == [0, 73], said
    assert not any("not connected yet" in err for _, err in said)  # by the other's registration
    assert site.status("mine") == "Running"


def test_an_endpoint_of_another_host(site: Person):
    site.configure("mine", _THREADS)
    endpoint_id = started(site)
    here = state(site)["host"]
    listed = on_another_host(site, "list")
    assert re.search(rf"{endpoint_id} \| Running +\| mine +\| {here} ", listed.stdout), listed
    for verb in ("start", "stop", "delete"):
        options = ["--yes"] if verb == "delete" else []
        refused = on_another_host(site, verb, *options, "mine")
        assert refused.returncode == 69, refused
        assert here in refused.stderr and "--take-over" in refused.stderr
    leader = psutil.Process(state(site)["pid"])
    taken = on_another_host(site, "stop", "--take-over", "mine")
    assert "is now stopped" in taken.stdout
    leader.wait(20)  # it has noticed at its next heartbeat
    assert site.status("mine") == "Stopped"


def test_directories_of_choice(site: Person, tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    site.told("-c", str(one), "configure", "first")
    site.told("configure", "second", GLOBUS_COMPUTE_USER_DIR=str(other))
    (one / "first/config.yaml").write_text(_THREADS)
    try:
        site.told("--config-dir", str(one), "start", "first")
        rows = json.loads(site.told("-c", str(one), "list", "--json"))
        assert [(row["name"], row["status"]) for row in rows] == [("first", "Running")]
        pid = json.loads((one / "first/state.json").read_text())["pid"]
        title = " ".join(psutil.Process(pid).cmdline())
        assert title.startswith("Globus Compute Endpoint (")
        # The one which is relative to where the command is run.
        relative = os.path.relpath(one, site.home)
        site.told("stop", "first", GLOBUS_COMPUTE_USER_DIR=relative)
        site.told("start", "first", GLOBUS_COMPUTE_USER_DIR=relative)
    finally:
        site.run("-c", str(one), "stop", "first")
    rows = json.loads(site.told("list", "--json", GLOBUS_COMPUTE_USER_DIR=str(other)))
    assert [(row["name"], row["status"]) for row in rows] == [("second", "Initialized")]
    assert json.loads(site.told("list", "--json")) == []


def test_what_fails_in_the_background_is_told_in_the_foreground(site: Person):
    site.configure("mine", f"{_THREADS}endpoint_setup: echo no such module >&2; exit 3\n")
    failed = site.run("start", "mine")
    assert failed.returncode == 78
    assert "endpoint_setup failed with exit status 3" in failed.stderr
    assert "no such module" in failed.stderr
    assert "Starting endpoint" not in failed.stdout
    assert site.status("mine") == "Disconnected"
    (site.endpoints / "mine/config.yaml").write_text(_THREADS)
    started(site)


def test_a_broker_out_of_reach_is_told_in_the_foreground(site: Person):
    site.configure("mine", f"{_THREADS}amqp_port: 1\n")
    # Tests which run in the background have SIGINT ignored, as have their children: signal(7).
    heeding = ["env", "--default-signal=INT"]
    command = [*heeding, sys.executable, "-m", "globus_compute_endpoint", "start", "mine"]
    with subprocess.Popen(
        command, env=site.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as start:
        assert start.stderr is not None
        said = start.stderr.readline()
        assert "not connected to amqp://127.0.0.1:1/" in said and "Connection refused" in said
        start.send_signal(signal.SIGINT)
        start.wait(20)
        assert "not connected" not in start.stderr.read()
    assert site.status("mine") == "Stopped"


def test_ctrl_c_at_an_attached_endpoint_is_the_endpoints_alone(site: Person):
    site.configure("mine")
    with (site.home / "shown").open("w+") as shown:
        process = subprocess.Popen(
            [sys.executable, "-m", "globus_compute_endpoint", "start", "--attach", "mine"],
            env=site.environment,
            stdout=shown,
            stderr=shown,
            process_group=0,  # as a shell does
        )
        wait_until(lambda: "Taking tasks" in (site.home / "shown").read_text(), 60)
        interchange = next(
            each for each in psutil.Process(process.pid).children() if "parsl" in each.cmdline()[0]
        )
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        assert not interchange.is_running()
        shown.seek(0)
        said = shown.read()
    assert "Stopping: SIGINT received" in said
    assert "KeyboardInterrupt" not in said
    assert site.status("mine") == "Stopped"


def test_a_signal_in_the_middle_of_the_setup_stops_it(site: Person):
    site.configure("mine", f"{_THREADS}endpoint_setup: sleep 1000\n")
    command = [sys.executable, "-m", "globus_compute_endpoint", "start", "mine"]
    with subprocess.Popen(
        command, env=site.environment, stderr=subprocess.PIPE, text=True
    ) as start:
        assert start.stderr is not None
        assert start.stderr.readline() == "Running endpoint_setup ...\n"
        leader = psutil.Process(state(site)["pid"])
        scripts = leader.children(recursive=True)
        leader.terminate()
        leader.wait(20)
        assert start.wait(20) == 70
        assert "ended before it was ready" in start.stderr.read()
    assert site.status("mine") == "Stopped"
    wait_until(lambda: not any(each.is_running() for each in scripts))


@pytest.mark.parametrize("name", ["../up", "a b", "", "-x", "uep/x", "x" * 200])
def test_names_are_validated(site: Person, name: str):
    refused = site.run("configure", "--", name)
    assert refused.returncode == 78
    assert "cannot be the name of an endpoint" in refused.stderr
    assert "use up to 128 letters" in refused.stderr


def ask(site: Person, call: str) -> None:
    """A call of the SDK's client."""
    program = f"from globus_compute_sdk import Client; Client().{call}"
    subprocess.run([sys.executable, "-c", program], env=site.environment, check=True, timeout=60)


def test_what_the_services_refuse_has_an_exit_status_of_its_own(site: Person):
    site.configure("mine", f'display_name: "a\\0b"\n{_THREADS}')
    data = site.run("start", "mine")
    assert (data.returncode, "display_name" in data.stderr) == (65, True), data.stderr

    config = site.endpoints / "mine/config.yaml"
    config.write_text(f"services: {{compute_url: 'http://127.0.0.1:1'}}\n{_THREADS}")
    away = site.run("start", "mine")
    assert (away.returncode, "cannot reach the web services" in away.stderr) == (75, True)

    config.write_text(_THREADS)
    endpoint_id = started(site)
    ask(site, f"stop_endpoint({endpoint_id!r})")
    site.told("stop", "mine")
    locked = site.run("start", "mine")
    assert (locked.returncode, "stopped remotely" in locked.stderr) == (69, True), locked.stderr

    ask(site, f"delete_endpoint({endpoint_id!r})")
    unknown = site.run("start", "mine")
    assert (unknown.returncode, "remove endpoint.json" in unknown.stderr) == (69, True)
