# SPDX-License-Identifier: Apache-2.0
"""A single user's endpoint which systemd starts at boot, on a host that is booted anew."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from support.waiting import until
from system.hosts import Host
from system.packages import ENDPOINT, SERVICES, install_packages

SERVICES_URL = "http://127.0.0.1:5000"  # all on one machine
UNIT = "globus-compute-endpoint-mine.service"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("boot") as made:
        install_packages(made, ENDPOINT, SERVICES)
        made.add_user("alice")
        made.run("systemctl", "enable", "--now", "rabbitmq-server")
        made.run("globus-compute-services", "init")
        made.run("systemctl", "enable", "--now", "globus-compute-services")
        yield made


@pytest.fixture(scope="module")
def credentials(host: Host) -> dict[str, str]:
    create = ("client", "create", "alice", "--username", "alice@example.org", "--json")
    made = json.loads(host.run("globus-compute-services", *create).stdout)
    return {
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": f"{SERVICES_URL}/",
        "GLOBUS_COMPUTE_CLIENT_ID": made["client_id"],
        "GLOBUS_COMPUTE_CLIENT_SECRET": made["client_secret"],
    }


def status(host: Host) -> tuple[str, str]:
    listed = host.run("gce", "list", "--json", user="alice").stdout
    (row,) = json.loads(listed)
    return row["status"], row["endpoint_id"]


def printed_commands(text: str) -> list[list[str]]:
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("   ")]
    return [words[1:] if words[0] == "sudo" else words for words in lines]


def wait_active(host: Host) -> None:
    host.run(
        "timeout", "60", "sh", "-c", f"until systemctl is-active -q {UNIT}; do sleep 0.2; done"
    )


def test_it_comes_back_with_the_host(host: Host, credentials: dict[str, str]) -> None:
    host.run("gce", "configure", "mine", user="alice")
    config = "engine: {type: ThreadPoolEngine}\n"
    host.run("tee", "/home/alice/.globus_compute/mine/config.yaml", user="alice", stdin=config)

    awkward = 'a "b" $PATH \\ `c` %d'
    said = host.run(
        *("gce", "enable-on-boot", "mine"),
        user="alice",
        environment={**credentials, "GLOBUS_AWKWARD": awkward},
    ).stdout

    # alice may not install units: she is told what root must run, and root runs just that.
    commands = printed_commands(said)
    assert commands[-1] == ["systemctl", "enable", UNIT, "--now"]
    for command in commands:
        host.run(*command)
    wait_active(host)
    state, endpoint_id = status(host)
    assert state == "Running"
    environment = "/home/alice/.globus_compute/mine/boot.env"
    assert host.run("stat", "-c", "%a %U", environment).stdout == "600 alice\n"
    script = f"set -a; . {environment}; printenv GLOBUS_AWKWARD"
    assert host.run("sh", "-c", script, user="alice").stdout == f"{awkward}\n"
    # Which root would read, also where alice made it a link to what only root may read.
    assert host.run("systemctl", "show", "-P", "EnvironmentFiles", UNIT).stdout.strip() == ""
    main = host.run("systemctl", "show", "-P", "MainPID", UNIT).stdout.strip()
    assert host.run("ps", "-o", "user=", "-p", main).stdout.strip() == "alice"

    host.down(keep_disk=True)
    host.up()

    wait_active(host)
    assert status(host) == ("Running", endpoint_id)


def test_it_comes_back_when_it_was_killed(host: Host, credentials: dict[str, str]) -> None:
    def main_process() -> str:
        return host.run("systemctl", "show", "-P", "MainPID", UNIT).stdout.strip()

    before = main_process()
    host.run("kill", "-KILL", before)
    until(lambda: main_process() not in (before, "0"), 40)
    wait_active(host)
    assert status(host)[0] == "Running"


def test_disabling_it(host: Host, credentials: dict[str, str]) -> None:
    said = host.run("gce", "disable-on-boot", "mine", user="alice").stdout
    assert said.startswith("Run the following to disable on-boot-persistence:\n")
    for command in printed_commands(said):
        host.run(*command)
    assert status(host)[0] == "Stopped"
    again = host.run("gce", "disable-on-boot", "mine", user="alice", check=False)
    assert (again.returncode, "is not started at boot" in again.stderr) == (78, True)


def test_root_installs_the_unit_itself(host: Host) -> None:
    host.run("gce", "configure", "roots")
    said = host.run("gce", "enable-on-boot", "roots").stdout
    assert said == (
        "Systemd service installed. Run\n"
        "   sudo systemctl enable globus-compute-endpoint-roots.service --now\n"
        "to enable the service and start the endpoint.\n"
    )
    host.run(
        "systemd-analyze", "verify", "/etc/systemd/system/globus-compute-endpoint-roots.service"
    )


def test_root_keeps_away_from_the_endpoints_of_others(host: Host) -> None:
    theirs = "/home/alice/.globus_compute"
    for command in (
        *[(verb, "mine") for verb in ("start", "stop", "delete", "enable-on-boot", "diagnostic")],
        ("whoami", "mine"),
        ("configure", "new"),
        ("list",),
    ):
        refused = host.run("gce", "-c", theirs, *command, check=False)
        assert refused.returncode == 77, (command, refused)
        assert f"{theirs} is not root's, but of alice" in refused.stderr
    # Through a link of root's, too.
    host.run("ln", "-s", f"{theirs}/mine", "/root/.globus_compute/mine")
    refused = host.run("gce", "stop", "mine", check=False)
    assert (refused.returncode, "but of alice" in refused.stderr) == (77, True)


def test_a_system_endpoint_has_a_unit_already(host: Host) -> None:
    host.run("gce", "configure", "--multi-user", "site")
    said = host.run("gce", "enable-on-boot", "site").stdout
    assert "systemctl enable --now globus-compute-endpoint@site\n" in said
    said = host.run("gce", "disable-on-boot", "site").stdout
    assert "systemctl disable --now globus-compute-endpoint@site\n" in said
    refused = host.run("gce", "start", "site", check=False)
    assert (refused.returncode, "systemctl" in refused.stderr) == (78, True)
    rows = json.loads(host.run("gce", "list", "--json").stdout)
    assert [(row["name"], row["status"]) for row in rows if row["unit"]] == [
        ("site", "Initialized")
    ]
