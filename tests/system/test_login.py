# SPDX-License-Identifier: Apache-2.0
"""A system endpoint which registers as a person: ``login NAME`` as root."""

from __future__ import annotations

import json
import os

import pytest

from support.terminal import Terminal
from system.conftest import WarmSite
from system.site import DOMAIN, SERVICES_URL, sdk_environment

NAME = "personal"
GATEWAY = f"/var/lib/globus-compute-endpoint/{NAME}/gateway"
LINK = r"(http://127\.0\.0\.1:5000/v2/oauth2/authorize\S+)\s.*Authorization Code here: "
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
        "services": {"compute_url": SERVICES_URL, "auth_url": SERVICES_URL},
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


def log_in(warm, who):
    """As root on a terminal of the host; returns what is printed after the code was typed."""
    warm.host.run(
        *("sh", "-c", 'echo "$0" | globus-compute-services account create "$1" --password-stdin'),
        *(PASSWORD, who),
    )
    python = str(sdk_environment() / "bin/python")
    command = warm.host.command("globus-compute-endpoint", "login", NAME)
    with Terminal(command, os.environ) as terminal:
        link = terminal.wait_for(LINK)[1]
        code = warm.host.run(python, "-c", _BROWSER, link, who, PASSWORD).stdout.strip()
        terminal.text = ""
        terminal.type_line(code)
        assert terminal.ended() == 0, terminal.text
        return terminal.text


def test_a_login_is_stored_for_the_gateway_alone_which_registers_with_it(warm, personal):
    who = f"grace@{DOMAIN}"
    assert f"login {NAME}" in run(warm, "whoami", NAME, status=77)
    said = log_in(warm, who)
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
    assert warm.property(gateway, "ExecMainStatus") == "77"


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
