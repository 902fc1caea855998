# SPDX-License-Identifier: Apache-2.0
"""A manager which an ordinary user runs, against the real web services, with the unmodified SDK.

PEER_VENV is where the public endpoint package is installed, unmodified: see ``tests/endpoint/run``.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml

from endpoint.personal import TREE, Person, create_client
from globus_compute_endpoint.host.paths import WORK_MARKER

pytestmark = pytest.mark.timeout(150)

CONFIG = "display_name: mine\nheartbeat_period: 2\n"  # no multi_user: the template tells
TEMPLATE = """\
engine:
  type: ThreadPoolEngine
  max_workers: 2
display_name: {{ ACCOUNT_ID }}
heartbeat_period: 1
"""

_WHERE = """
import json, os, sys
from globus_compute_sdk import Executor

def where():
    import os
    return os.getpid(), os.getuid(), dict(os.environ)

def ask(executor, function=where, **configuration):
    executor.user_endpoint_config = configuration
    try:
        return executor.submit(function).result(90)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

# Two configurations, one after the other, and the first again.
_TWO = (
    _WHERE
    + """
with Executor(endpoint_id=sys.argv[1]) as executor:
    accounts = ("ABCD-1234", "WXYZ-7890", "ABCD-1234")
    print(json.dumps([ask(executor, ACCOUNT_ID=account) for account in accounts]))
"""
)

_ONE = (
    _WHERE
    + """
with Executor(endpoint_id=sys.argv[1]) as executor:
    print(json.dumps(ask(executor, ACCOUNT_ID="ABCD-1234")))
"""
)


@pytest.fixture(scope="module")
def account() -> str:
    name = f"dora{time.time_ns() % 10**8}"
    subprocess.run(["useradd", "--create-home", name], check=True, timeout=60)
    return name


@pytest.fixture
def site(client: dict[str, str], account: str, request: pytest.FixtureRequest) -> Iterator[Person]:
    home = Path("/home") / account / request.node.name
    home.mkdir()
    shutil.chown(home, account, account)
    person = Person(home, client, account)
    yield person
    person.stop_all()
    assert not user_endpoints(person)


@pytest.fixture
def write(site: Person) -> Callable[[str, str], None]:
    """Writes a file of the manager ``mine``, as its owner."""
    site.told("configure", "--multi-user", "mine")

    def write_file(name: str, content: str) -> None:
        path = site.endpoints / "mine" / name
        path.write_text(content)
        assert site.account
        shutil.chown(path, site.account, site.account)

    write_file("config.yaml", CONFIG)
    write_file("user_config_template.yaml.j2", TEMPLATE)
    return write_file


def start(site: Person) -> str:
    return site.told("start", "mine").split()[-1]


def log_of(site: Person, name: str = "mine") -> str:
    return (site.endpoints / name / "endpoint.log").read_text()


def manager_of(site: Person) -> psutil.Process:
    state = json.loads((site.endpoints / "mine" / "state.json").read_text())
    return psutil.Process(state["pid"])


def title_of(process: psutil.Process) -> str:
    """psutil splits a title at its blanks when it fills the room of the arguments exactly,
    and keeps what is blank behind it.
    """
    return " ".join(process.cmdline()).strip()


def user_endpoints(site: Person) -> list[psutil.Process]:
    """The processes of the person's user endpoints, by the files which say so."""
    records = (site.endpoints / "mine" / "user_endpoints").glob("*.json")
    pids = [json.loads(path.read_text())["pid"] for path in records]
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_a_user_endpoint_for_each_configuration(site: Person, write: Callable[[str, str], None]):
    write("user_environment.yaml", "SITE: the moon\nOMP_NUM_THREADS: 4\n")
    endpoint_id = start(site)
    first, second, again = site.research(_TWO, endpoint_id)
    assert first[0] == again[0] != second[0]
    assert first[1] == manager_of(site).uids().real != 0
    environment = first[2]
    assert (environment["SITE"], environment["OMP_NUM_THREADS"]) == ("the moon", "4")
    assert environment["GC_USER_PYTHON_VERSION"]
    assert not [name for name in environment if "SECRET" in name]
    running = user_endpoints(site)
    assert {each.pid for each in running} == {first[0], second[0]}
    assert title_of(manager_of(site)) == f"Globus Compute Endpoint ({endpoint_id}, mine)"
    for each in running:
        title = title_of(each)
        assert title.startswith("Globus Compute Endpoint (")
        assert f", uep.{endpoint_id}." in title
    assert len({title_of(each) for each in running}) == 2
    check_status(site, {first[0]: 2, second[0]: 1})
    assert site.told("stop", "mine") == "> Endpoint <mine> is now stopped\n"
    assert site.status("mine") == "Stopped"
    assert not any(each.is_running() for each in running)
    assert list((site.endpoints / "mine" / "user_endpoints").iterdir()) == []


def check_status(site: Person, done: dict[int, int]) -> None:
    """``status`` tells of user endpoints with these pids, and how many tasks they have done.

    One that hangs holds nobody up.
    """
    seen = json.loads(site.told("status", "mine", "--json"))
    assert (seen["kind"], seen["state"]) == ("manager", "Running")
    shown = {each["pid"]: each for each in seen["user_endpoints"]}
    assert {pid: each["done_tasks"] for pid, each in shown.items()} == done
    assert {each["local_user"] for each in shown.values()} == {site.account}
    assert {each["state"] for each in shown.values()} == {"running"}
    hung = psutil.Process(min(done))
    hung.suspend()
    told = site.told("status", "mine")
    hung.resume()
    assert "user endpoints running: 2" in told
    states = [line.partition(": ")[2] for line in told.splitlines() if "User endpoint" in line]
    assert sorted(each.partition(",")[0] for each in states) == [
        "does not answer (last said: running)",
        "running",
    ]


def test_as_configured_it_ignores_the_mapping_and_says_so(site: Person):
    said = site.told("configure", "--multi-user", "mine")
    assert "Created multi-user profile for endpoint named <mine>" in said
    assert "identity_mapping_config_path" in (site.endpoints / "mine/config.yaml").read_text()
    endpoint_id = start(site)
    assert "identity_mapping_config_path is ignored" in log_of(site)
    pid, uid, _ = site.research(_ONE, endpoint_id)  # the template as it is: GlobusComputeEngine
    assert pid and uid == manager_of(site).uids().real


def test_others_are_refused_and_told_why(site: Person, write: Callable[[str, str], None]):
    endpoint_id = start(site)
    stranger = Person(site.home, create_client("bob", "bob@example.org"), site.account)
    said = stranger.research(_ONE, endpoint_id)
    assert "runs functions of the person alone who started it" in said
    assert "bob@example.org" in said
    assert user_endpoints(site) == []
    linked = create_client("alice2", "a2@example.org", linked_to="a@example.org")
    friend = Person(site.home, linked, site.account)
    pid, *_ = friend.research(_ONE, endpoint_id)
    assert [each.pid for each in user_endpoints(site)] == [pid]


_WRONG = (
    _WHERE
    + """
with Executor(endpoint_id=sys.argv[1]) as executor:
    told = {
        "missing": ask(executor, PATHS="x"),
        "schema": ask(executor, ACCOUNT_ID=5),
        "reserved": ask(executor, ACCOUNT_ID="x", _GC={}),
        "option": ask(executor, ACCOUNT_ID="x", MORE="tea: true"),
    }
    print(json.dumps(told))
"""
)


_LOOSE = "{{ MORE | default('') | replace('\"', '') }}\n"


def test_wrong_options_are_told_to_who_gave_them(site: Person, write: Callable[[str, str], None]):
    schema = {"properties": {"ACCOUNT_ID": {"type": "string"}}}
    write("user_config_schema.json", json.dumps(schema))
    write(
        "user_config_template.yaml.j2", TEMPLATE + "{{ MORE | default('') | replace('\"', '') }}\n"
    )
    told = site.research(_WRONG, start(site))
    assert "'ACCOUNT_ID' is undefined" in told["missing"]
    assert "user_endpoint_config.ACCOUNT_ID: 5 is not of type 'string'" in told["schema"]
    assert "the name '_GC' is reserved" in told["reserved"]
    assert "tea (line 6): no such option" in told["option"]


_MACRO = "{% macro script(text) %}echo {{ text | shell_escape }} > $HOME/said{% endmacro %}"


def test_templates_include_and_escape(site: Person, write: Callable[[str, str], None]):
    write("site.yaml.j2", TEMPLATE + "{% block more %}{% endblock %}")
    write("macros.j2", _MACRO)
    write(
        "user_config_template.yaml.j2",
        '{% extends "site.yaml.j2" %}{% block more %}{% from "macros.j2" import script %}'
        "endpoint_setup: |\n  {{ script(TEXT) }}\nidle_heartbeats_soft: 2\n{% endblock %}",
    )
    write("config.yaml", CONFIG + "mu_child_ep_grace_period_s: 0\n")
    program = _ONE.replace('ACCOUNT_ID="ABCD-1234"', 'ACCOUNT_ID="x", TEXT="it\'s $(id) a"')
    assert site.research(program, start(site))[0]
    assert (site.home / "said").read_text() == "it's $(id) a\n"
    wait_for(lambda: "has ended" in log_of(site))  # idle
    assert user_endpoints(site) == []
    assert "has died" not in log_of(site)


def hangs_up_on_others(site: Person) -> bool:
    """Whether a user endpoint has nothing to do with another user who finds its socket: root."""
    (path,) = (site.endpoints / "mine" / "user_endpoints").glob("*.json")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(10)
        stranger.connect("\0" + json.loads(path.read_text())["address"])
        try:
            stranger.send(b'{"type":"stop"}')
            return stranger.recv(1024) == b""
        except (BrokenPipeError, ConnectionResetError):
            return True


def test_user_endpoints_outlive_a_kill_and_are_adopted(
    site: Person, write: Callable[[str, str], None]
):
    endpoint_id = start(site)
    pid = site.research(_ONE, endpoint_id)[0]
    for adopted in (1, 2):
        manager_of(site).kill()
        wait_for(lambda: site.status("mine") == "Disconnected")
        assert start(site) == endpoint_id
        assert log_of(site).count("adopted user endpoint") == adopted
    ((name, log),) = ((path.parent.name, path) for path in site.endpoints.glob("uep.*/*.log"))
    assert name.startswith(f"uep.{endpoint_id}.")
    assert log.read_text().count("A manager has taken up the conversation") == 2
    assert hangs_up_on_others(site)
    assert site.research(_ONE, endpoint_id)[0] == pid
    manager_of(site).kill()  # and stop, when there is no manager to end its own
    wait_for(lambda: site.status("mine") == "Disconnected")
    assert psutil.pid_exists(pid)
    assert site.told("stop", "mine") == "> Endpoint <mine> is now stopped\n"
    assert not psutil.pid_exists(pid)


def test_one_that_dies_is_started_again(site: Person, write: Callable[[str, str], None]):
    endpoint_id = start(site)
    first = site.research(_ONE, endpoint_id)[0]
    psutil.Process(first).send_signal(signal.SIGTERM)  # within the grace period
    second = only_one(site, first)
    (directory,) = site.endpoints.glob("uep.*")
    wait_for(lambda: log_of(site, directory.name).count("Taking tasks from") == 2)
    psutil.Process(second).kill()
    wait_for(lambda: "it was killed by SIGKILL" in log_of(site))
    third = only_one(site, second)
    assert site.research(_ONE, endpoint_id)[0] == third
    assert log_of(site).count("started user endpoint") == 3


def only_one(site: Person, but: int) -> int:
    """The pid of the one user endpoint, once it is another than ``but``."""
    wait_for(lambda: [each.pid for each in user_endpoints(site) if each.pid != but])
    (process,) = user_endpoints(site)
    return process.pid


def test_one_with_work_left_comes_back_whoever_died_and_by_itself(
    site: Person, write: Callable[[str, str], None]
):
    pid = site.research(_ONE, start(site))[0]
    (directory,) = site.endpoints.glob("uep.*")
    (directory / WORK_MARKER).touch()  # its journal, if it has one by now, has nothing open
    psutil.Process(pid).kill()
    pid = only_one(site, pid)
    manager_of(site).kill()
    wait_for(lambda: site.status("mine") == "Disconnected")
    psutil.Process(pid).kill()
    start(site)
    pid = only_one(site, pid)
    assert log_of(site).count("started user endpoint") == 3
    manager_of(site).kill()
    wait_for(lambda: site.status("mine") == "Disconnected")
    psutil.Process(pid).kill()
    (directory / WORK_MARKER).unlink()
    start(site)
    wait_for(lambda: "has left no work" in log_of(site))
    assert user_endpoints(site) == []


_OTHER = """#!/bin/sh
# another installation: notes what it is given, and goes on as ours
echo "$@" > "{home}/arguments"
cat > "{home}/document"
exec env PYTHONPATH={tree}/src {python} -m globus_compute_endpoint "$@" < "{home}/document"
"""


def test_a_path_of_the_sites_own_leads_to_its_installation(
    site: Person, write: Callable[[str, str], None]
):
    program = site.home / "site" / "globus-compute-endpoint"
    program.parent.mkdir()
    program.write_text(_OTHER.format(home=site.home, tree=TREE, python=sys.executable))
    program.chmod(0o755)
    write("user_environment.yaml", f"PATH: {program.parent}:/usr/bin:/bin\nSITE: the moon\n")
    write("config.yaml", CONFIG + "amqp_port: 5672\n")
    endpoint_id = start(site)
    pid, _, environment = site.research(_ONE, endpoint_id)
    assert environment["SITE"] == "the moon"
    command, name = (site.home / "arguments").read_text().split()
    document = json.loads((site.home / "document").read_text())
    assert (command, name.split(".")[:2]) == ("_start-user-endpoint", ["uep", endpoint_id])
    config = yaml.safe_load(document["config"])
    assert (config["display_name"], config["amqp_port"]) == ("ABCD-1234", 5672)
    assert document["amqp_creds"]["endpoint_id"] == name.split(".")[2]
    assert document["ep_info"]["posix_ppid"] == manager_of(site).pid
    assert [each.pid for each in user_endpoints(site)] == [pid]
    site.told("stop", "mine")
    assert not psutil.pid_exists(pid)
    assert "has died" not in log_of(site)


def test_that_may_be_the_public_package(site: Person, write: Callable[[str, str], None]):
    environment = {"PATH": f"{os.environ['PEER_VENV']}/bin:/usr/bin:/bin", "SITE": "the moon"}
    write("user_environment.yaml", json.dumps(environment))
    pid, _, seen = site.research(_ONE, start(site))
    assert seen["SITE"] == "the moon"
    (running,) = user_endpoints(site)
    assert running.pid == pid
    site.told("stop", "mine")
    assert not psutil.pid_exists(pid)


def test_one_that_was_taken_over_ends_with_all_it_has(
    site: Person, write: Callable[[str, str], None]
):
    endpoint_id = start(site)
    pid = site.research(_ONE, endpoint_id)[0]
    manager = manager_of(site)
    state = site.endpoints / "mine" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "instance": str(uuid4())}))
    wait_for(lambda: not manager.is_running())
    assert "another instance has taken this endpoint over" in log_of(site)
    assert not psutil.pid_exists(pid)
    site.told("delete", "--yes", "--force", "mine")
    assert list(site.endpoints.glob("*")) == [site.endpoints / "storage.db"]


_STOP = """
import sys
from globus_compute_sdk import Client

Client().stop_endpoint(sys.argv[1])
print(0)
"""


def test_one_that_was_stopped_remotely_ends_with_all_it_has(
    site: Person, write: Callable[[str, str], None]
):
    endpoint_id = start(site)
    pid = site.research(_ONE, endpoint_id)[0]
    site.research(_STOP, endpoint_id)
    wait_for(lambda: site.status("mine") == "Disconnected")
    assert not psutil.pid_exists(pid)
    assert "has died" not in log_of(site)


@pytest.fixture
def user_bus(account: str) -> Iterator[Path]:
    """The user's service manager, which stays when nobody of that name is logged in."""
    runtime = Path("/run/user") / str(pwd.getpwnam(account).pw_uid)
    subprocess.run(["loginctl", "enable-linger", account], check=True, timeout=60)
    units = (f"user@{runtime.name}.service", f"user-runtime-dir@{runtime.name}.service")
    subprocess.run(["systemctl", "start", *units], check=True, timeout=60)
    yield runtime
    subprocess.run(["loginctl", "disable-linger", account], check=True, timeout=60)
    subprocess.run(["systemctl", "stop", *units], check=True, timeout=60)


def systemctl(site: Person, runtime: Path, *arguments: str) -> str:
    """What the user's own systemctl says."""
    environment = {**site.environment, "XDG_RUNTIME_DIR": str(runtime)}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ["systemctl", "--user", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **site.identity,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_a_user_bus_there_are_scopes_with_limits(
    site: Person, write: Callable[[str, str], None], user_bus: Path
):
    write("config.yaml", CONFIG + "resource_control: {endpoint: {TasksMax: 321}}\n")
    endpoint_id = start(site)
    pid = site.research(_ONE, endpoint_id)[0]
    cgroup = Path(f"/proc/{pid}/cgroup").read_text()
    scope = next(part for part in cgroup.split("/") if part.startswith("globus-compute-uep-"))
    scope = scope.split()[0]
    assert f"/user@{user_bus.name}.service/" in cgroup
    assert "TasksMax=321" in systemctl(site, user_bus, "show", "--property=TasksMax", scope)
    manager_of(site).kill()
    wait_for(lambda: site.status("mine") == "Disconnected")
    start(site)
    assert "adopted user endpoint" in log_of(site)
    assert site.research(_ONE, endpoint_id)[0] == pid
    subprocess.run(["systemctl", "stop", f"user@{user_bus.name}"], check=True, timeout=60)
    wait_for(lambda: "the user bus went away" in log_of(site))
    wait_for(lambda: "has ended" in log_of(site))  # with its scope
    other = site.research(_ONE, endpoint_id)[0]
    assert "user@" not in Path(f"/proc/{other}/cgroup").read_text()


def test_a_user_bus_that_ends_with_the_last_login_is_not_relied_on(
    site: Person, write: Callable[[str, str], None], user_bus: Path, account: str
):
    (Path("/var/lib/systemd/linger") / account).unlink()  # the manager of the user goes on
    endpoint_id = start(site)
    assert "to have them: loginctl enable-linger" in log_of(site)
    pid = site.research(_ONE, endpoint_id)[0]
    assert "user@" not in Path(f"/proc/{pid}/cgroup").read_text()
