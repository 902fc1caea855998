# SPDX-License-Identifier: Apache-2.0
"""People log in from laptop and login node: ``login NAME`` as root, the SDK by private DNS."""

from __future__ import annotations

import json
import os

import pytest

from support.terminal import Terminal
from support.waiting import until
from system.conftest import WarmSite
from system.site import DOMAIN, ENDPOINT_CA, LAPTOP_CA, SDK_TRUST, SERVICES_URL

NAME = "personal"
GATEWAY = f"/var/lib/globus-compute-endpoint/{NAME}/gateway"
LINK = r"(https://[\w.]+/v2/oauth2/authorize\S+)\s.*Authorization Code here: "
PASSWORD = "correct horse battery staple"

# what a person does with the link in a browser, which is not what is tried here
_BROWSER = """
import re, sys, requests
link, user, password = sys.argv[1:]
browser = requests.Session()
answer = browser.get(link)
for fields in ({"step": "sign-in", "username": user, "password": password}, {"step": "allow"}):
    token = re.search(r'name="form_token" value="(\\w+)"', answer.text)[1]
    answer = browser.post(link, data={"form_token": token, **fields})
assert len(browser.cookies) == 2 and all(cookie.secure for cookie in browser.cookies)
print(re.search(r'id="code" class="code" value="([^"]+)"', answer.text)[1])
"""


@pytest.fixture
def personal(warm: WarmSite):
    """A second endpoint on the warm host, without a client identity."""
    directory = f"/etc/globus-compute-endpoint/{NAME}"
    warm.host.run("globus-compute-endpoint", "configure", "--multi-user", NAME)
    config = {
        "multi_user": True,
        "identity_mapping_config_path": f"{directory}/example_identity_mapping_config.json",
        "services": {
            "compute_url": SERVICES_URL,
            "auth_url": SERVICES_URL,
            "ca_file": ENDPOINT_CA,
        },
    }
    warm.host.write(f"{directory}/config.yaml", json.dumps(config))
    yield f"globus-compute-endpoint@{NAME}"
    warm.host.run("systemctl", "stop", f"globus-compute-endpoint@{NAME}")
    warm.host.run("systemctl", "reset-failed", "globus-compute-endpoint*", check=False)
    warm.host.run("rm", "-r", directory, f"/var/lib/globus-compute-endpoint/{NAME}")


def run(warm, *arguments, status=0):
    done = warm.host.run("globus-compute-endpoint", *arguments, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def create_account(warm, who):
    create = 'echo "$0" | globus-compute-services account create "$1" --password-stdin'
    warm.services.run("sh", "-c", create, PASSWORD, who)


def log_in(warm, who, command):
    """Run a command on a terminal which asks to log in; returns what is printed afterwards."""
    with Terminal(command, os.environ) as terminal:
        link = terminal.wait_for(LINK)[1]
        python = str(warm.sdk / "bin/python")
        trust = {"REQUESTS_CA_BUNDLE": LAPTOP_CA}
        browsed = warm.laptop.run(python, "-c", _BROWSER, link, who, PASSWORD, environment=trust)
        terminal.text = ""
        terminal.type_line(browsed.stdout.strip())
        assert terminal.ended() == 0, terminal.text
        return terminal.text


def test_a_login_is_stored_for_the_gateway_alone_which_registers_with_it(warm, personal):
    who = f"grace@{DOMAIN}"
    assert f"login {NAME}" in run(warm, "whoami", NAME, status=77)
    create_account(warm, who)
    said = log_in(warm, who, warm.host.command("globus-compute-endpoint", "login", NAME))
    assert f"Logged in as {who}" in said
    assert f"systemctl restart {personal}" in said
    stat = ("stat", "-c", "%U:%G %a", f"{GATEWAY}/storage.db", GATEWAY)
    file, directory = warm.host.run(*stat).stdout.split("\n")[:2]
    assert file == "globus-compute-gateway:globus-compute-gateway 600"
    assert directory == "globus-compute-gateway:globus-compute-gateway 750"
    warm.host.run("systemctl", "start", personal)
    assert "registered as" in warm.property(personal, "StatusText")
    assert who in run(warm, "whoami", NAME)
    run(warm, "logout", NAME)
    run(warm, "whoami", NAME, status=77)
    warm.host.run("systemctl", "restart", personal, check=False)
    gateway = f"globus-compute-endpoint-gateway@{NAME}.service"
    until(lambda: warm.property(gateway, "ExecMainStatus") == "77", 40)


def test_a_client_identity_in_gateway_env_comes_first(warm, personal):
    client = warm.site.create_client("personal-client")
    warm.host.write(
        f"/etc/globus-compute-endpoint/{NAME}/gateway.env",
        f"# as an administrator quotes it\nGLOBUS_COMPUTE_CLIENT_ID='{client.id}'\n"
        f'GLOBUS_COMPUTE_CLIENT_SECRET="{client.secret}"\n',
        mode=0o600,
    )
    shown = json.loads(run(warm, "whoami", "--json", NAME))
    assert shown["username"] == f"personal-client@{DOMAIN}"
    assert "comes before a login" in run(warm, "login", NAME, status=78)


def test_a_link_in_the_gateways_directory_leads_root_nowhere(warm, personal):
    """What a taken-over gateway could prepare for the root who logs in."""
    warm.host.run("install", "-d", "-o", "globus-compute-gateway", GATEWAY)
    warm.host.run("ln", "-s", "/etc/shadow", f"{GATEWAY}/storage.db")
    assert "cannot use the stored login" in run(warm, "login", NAME, status=77)


def test_the_gateways_processes_cannot_get_into_the_login_of_root(warm, personal):
    """Who can write into a process that has root's terminal can type there."""
    command = warm.host.command("globus-compute-endpoint", "login", NAME)
    as_gateway = ("runuser", "-u", "globus-compute-gateway", "--")
    with Terminal(command, os.environ) as terminal:
        terminal.wait_for(LINK)
        listed = warm.host.run("pgrep", "-u", "globus-compute-gateway", "-f", f" login {NAME}$")
        (process,) = listed.stdout.split()
        own = warm.host.run(*as_gateway, "sh", "-c", "cat /proc/$$/environ")
        assert own.stdout
        reading = warm.host.run(*as_gateway, "cat", f"/proc/{process}/environ", check=False)
        assert "Permission denied" in reading.stderr
        terminal.type_line("no code")
        assert terminal.ended() == 77, terminal.text


_SDK = """
from globus_compute_sdk import Client
print("registered", Client().register_source_code("def f(): return 1", "f"))
"""


def test_the_stock_sdk_logs_in_by_private_dns(warm):
    """Its own address of sign-in is ours here, and so is the page which shows the code."""
    who = f"heidi@{DOMAIN}"
    create_account(warm, who)
    environment = {**SDK_TRUST, "GLOBUS_COMPUTE_USER_DIR": "/root/heidi"}
    command = warm.laptop.command(warm.sdk / "bin/python", "-c", _SDK, environment=environment)
    assert "registered" in log_in(warm, who, command)
    again = warm.laptop.run(warm.sdk / "bin/python", "-c", _SDK, environment=environment)
    assert again.stdout.startswith("registered")
