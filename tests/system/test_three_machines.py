# SPDX-License-Identifier: Apache-2.0
"""Laptop, services and login node: what reaches what, and how the stock SDK gets there."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest

from support.authority import Authority
from support.terminal import Terminal
from support.waiting import until
from system.conftest import WarmSite
from system.hosts import Host
from system.network import BROKER, BROKER_NAME, COMPUTE, LAPTOP, LOGIN_NODE
from system.packages import install_wheel
from system.researcher import Researcher
from system.site import DOMAIN, LAPTOP_CA, SERVICES_URL
from system.test_units import SERVICES_UNITS

THREADS = "ThreadPoolEngine"
CONNECT = ("/home/ann/.local/bin/globus-compute-services", "connect")
# Prints what connect(2) said of each HOST:PORT: "open", or the name of an error.
PROBE = """
import errno, socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print("open")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
"""
# Prints the status of an answer, and its body.
ASK = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
"""
# Signs in at a link, as a browser does; prints the code that is to be pasted.
SIGN_IN = r"""
import re, requests, sys
link, name, password = sys.argv[1:]
browser = requests.Session()
def send(**fields):
    token = re.search(r'name="form_token" value="(\w+)"', browser.get(link).text)[1]
    return browser.post(link, data={"form_token": token, **fields})
send(step="sign-in", username=name, password=password)
print(re.search(r"[?&]code=([^&]+)", send(step="allow").url)[1])
"""
PASSWORD = "correct horse battery staple"


def probe(host: Host, *places: str) -> dict[str, str]:
    said = host.run("python3", "-c", PROBE, *places).stdout.split()
    return dict(zip(places, said, strict=True))


def add(first: int, second: int) -> int:
    return first + second


def large(size: int) -> str:
    return "x" * size


def who_and_where() -> tuple[str, str]:
    import getpass
    import os

    return getpass.getuser(), os.uname().nodename


def test_only_port_443_of_the_services_is_open_to_the_others(warm: WarmSite) -> None:
    opened = [f"{address}:443" for address in (COMPUTE, BROKER)]
    ports = (22, 80, 4369, 5000, 5671, 5672, 15671, 15672, 25672)
    walled = [f"{address}:{port}" for address in (COMPUTE, BROKER) for port in ports]
    for host in (warm.laptop, warm.host):
        assert set(probe(host, *opened).values()) == {"open"}
        # Not merely closed: it is the firewall which answers.
        assert set(probe(host, *walled).values()) == {"EHOSTUNREACH"}
    assert probe(warm.services, "127.0.0.1:5672", "127.0.0.1:15672") == {
        "127.0.0.1:5672": "open",
        "127.0.0.1:15672": "open",
    }


def test_laptop_and_login_node_reach_neither_each_other_nor_from_the_services(
    warm: WarmSite,
) -> None:
    for host, address in (
        (warm.laptop, LOGIN_NODE),
        (warm.host, LAPTOP),
        (warm.services, LOGIN_NODE),
        (warm.services, LAPTOP),
    ):
        walled = probe(host, f"{address}:22", f"{address}:443")
        assert set(walled.values()) == {"EHOSTUNREACH"}, (host.name, address)


def test_no_loopback_is_shared(warm: WarmSite) -> None:
    for host in (warm.laptop, warm.host):
        closed = probe(host, "127.0.0.1:443", "127.0.0.1:5000", "127.0.0.1:5672")
        assert set(closed.values()) == {"ECONNREFUSED"}
    names = {
        host.run("readlink", "/proc/1/ns/net").stdout
        for host in (warm.laptop, warm.host, warm.services)
    }
    assert len(names) == 3


def test_the_site_is_encrypted_from_end_to_end(warm: WarmSite) -> None:
    """Each connection to the broker, but the services' own on its loopback, came by TLS."""
    assert warm.researcher("alice").call(add, 2, 3, engine=THREADS) == 5
    columns = ("user", "ssl", "port", "peer_host")
    listed = warm.services.run(
        "rabbitmqctl", "-q", "list_connections", "--formatter=json", *columns
    )
    connections = json.loads(listed.stdout)
    own = [each for each in connections if each["user"] == "globus-compute-services"]
    others = [each for each in connections if each not in own]
    assert {".".join(map(str, each["peer_host"])) for each in others} >= {LOGIN_NODE}
    assert {(each["ssl"], each["port"]) for each in others} == {(True, 443)}
    assert {each["port"] for each in own} == {5672}


def test_the_sdk_with_a_private_name_server_and_authority(warm: WarmSite) -> None:
    """The first recipe: no address is set, the names of the hosted services lead to the site."""
    person = warm.researcher("alice")
    assert not [name for name in person.environment if name.endswith(("ENVIRONMENT", "_AUTH"))]
    user, node = person.call(who_and_where, engine=THREADS)
    assert (user, node) == ("alice", warm.host.name)


def test_the_endpoints_authority_reaches_user_endpoints_which_could_not_read_it(
    warm: WarmSite,
) -> None:
    template = warm.host.read(
        f"/etc/globus-compute-endpoint/{warm.name}/user_config_template.yaml.j2"
    )
    assert "ca_file" not in template

    def read(path: str) -> str:
        try:
            return open(path).read()
        except PermissionError:
            return "not permitted"

    said = warm.researcher("bob").call(read, "/etc/globus-compute-endpoint/site-ca.pem")
    assert said == "not permitted"


def certificate_serial(host: Host, name: str = SERVICES_URL.removeprefix("https://")) -> str:
    """The serial number of the certificate which a server shows."""
    program = (
        "import ssl, socket, sys\n"
        "context = ssl.create_default_context(cafile=sys.argv[2])\n"
        "with context.wrap_socket(socket.create_connection((sys.argv[1], 443), 10),"
        " server_hostname=sys.argv[1]) as s: print(s.getpeercert()['serialNumber'])"
    )
    return host.run("python3", "-c", program, name, LAPTOP_CA).stdout.strip()


def test_the_broker_shows_a_renewed_certificate(warm: WarmSite) -> None:
    before = certificate_serial(warm.laptop, BROKER_NAME)
    warm.site.give_certificate("/etc/rabbitmq", "rabbitmq", [BROKER_NAME])
    warm.services.run("rabbitmqctl", "eval", "ssl:clear_pem_cache().")
    assert certificate_serial(warm.laptop, BROKER_NAME) != before


def test_a_renewed_certificate_is_shown_after_a_reload(warm: WarmSite) -> None:
    unit = "globus-compute-services.service"
    pid, before = warm.property(unit, "MainPID", warm.services), certificate_serial(warm.laptop)
    warm.site.give_certificate(*warm.site.certificate_of_services)
    assert certificate_serial(warm.laptop) == before
    warm.services.run("systemctl", "reload", unit)
    renewed = certificate_serial(warm.laptop)
    assert renewed != before
    directory = warm.site.certificate_of_services[0]
    _, other_key = Authority().issue(["elsewhere"])
    good = warm.services.read(f"{directory}/key.pem")
    script = f"cat >{directory}/key.pem"
    warm.services.run("sh", "-c", script, stdin=other_key)
    try:
        warm.services.run("systemctl", "reload", unit)
        assert certificate_serial(warm.laptop) == renewed
        told = warm.services.journal("-u", unit, "--grep", "the old one stays")
        assert "key.pem" in told[-1]["MESSAGE"]
    finally:
        warm.services.run("sh", "-c", script, stdin=good)
    assert warm.property(unit, "MainPID", warm.services) == pid


def test_who_connects_while_the_services_restart_is_answered(warm: WarmSite) -> None:
    """The socket is systemd's: nobody is refused, they wait."""
    ask = (
        "import json, ssl, sys, urllib.request as r\n"
        "context = ssl.create_default_context(cafile=sys.argv[2])\n"
        "for _ in range(100):\n"
        "    json.load(r.urlopen(sys.argv[1] + '/v2/version?service=all', context=context,"
        " timeout=30))\n"
        "print('answered')"
    )
    command = ("python3", "-c", ask, SERVICES_URL, LAPTOP_CA)
    with warm.laptop.background(*command) as process:
        warm.services.run("systemctl", "restart", "globus-compute-services")
        said, _ = process.communicate(timeout=60)
    assert said == "answered\n"
    for person in ("alice", "bob"):
        assert warm.researcher(person).call(add, 1, 1, engine=THREADS) == 2


def test_amqp_port_is_the_managers_too(warm: WarmSite) -> None:
    """A port that the firewall does not let through: it is tried, and named."""
    path = f"/etc/globus-compute-endpoint/{warm.name}/config.yaml"
    gateway = f"globus-compute-endpoint-gateway@{warm.name}.service"
    before = warm.host.read(path)
    warm.host.write(path, json.dumps({**json.loads(before), "amqp_port": 5671}))
    try:
        warm.host.run("systemctl", "restart", "--no-block", warm.unit)
        named = f"not connected to amqps://{BROKER_NAME}:5671/"
        until(lambda: warm.host.journal("-u", gateway, "--grep", named), 30)
    finally:
        warm.host.write(path, before)
        warm.host.run("systemctl", "restart", warm.unit)
    assert warm.researcher("alice").call(add, 1, 1, engine=THREADS) == 2


@pytest.fixture(scope="module")
def laptop(warm: WarmSite) -> Host:
    """The laptop, where ann has installed the wheel with pipx; not as root, and offline."""
    warm.laptop.add_user("ann")
    install_wheel(warm.laptop, "ann", extra="connect")
    return warm.laptop


@contextlib.contextmanager
def connected(laptop: Host, *options: str) -> Iterator[dict[str, str]]:
    """The forwarder at work; yields what it says that one should export."""
    command = (*CONNECT, SERVICES_URL, *options)
    with laptop.background(*command, user="ann") as process:
        assert process.stdout is not None
        said: list[str] = []
        while len(exported := [line for line in said if "export" in line]) < 2:
            said.append(process.stdout.readline())
            assert said[-1], said
        variables = (line.strip().removeprefix("export ").split("=", 1) for line in exported)
        yield dict(variables)


def test_the_sdk_by_way_of_the_forwarder(warm: WarmSite, laptop: Host) -> None:
    """The second recipe: nothing but what the forwarder prints; no authority, no name server."""
    with connected(laptop, "--ca-file", LAPTOP_CA) as way:
        assert way == {
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": "http://localhost:5000/",
        }
        person = warm.researcher("alice")
        hers = Researcher(laptop, "alice-connected", person.client, warm.sdk, warm.endpoint_id, way)
        outcomes = hers.outcomes(
            (who_and_where, ()), (add, (2, 3)), (large, (5 << 20,)), engine=THREADS
        )
        assert [outcome.error for outcome in outcomes] == [None] * 3
        assert outcomes[0].value == ["alice", warm.host.name]
        assert outcomes[2].value == "x" * (5 << 20)
        listening = laptop.run("ss", "-Hlnt").stdout
        places = [line.split()[3] for line in listening.splitlines()]
        assert sorted(places) == ["127.0.0.1:5000", "127.0.0.1:5001", "[::1]:5000"]


def test_a_person_signs_in_by_way_of_the_forwarder(warm: WarmSite, laptop: Host) -> None:
    """The SDK's own long link and pasted code; pages, cookies and keys all come through."""
    who = f"bob@{DOMAIN}"
    create = ("globus-compute-services", "account", "create", who, "--password-stdin")
    warm.services.run(*create, stdin=f"{PASSWORD}\n")
    command = warm.researcher("bob").command((who_and_where, ()), engine=THREADS)
    with connected(laptop, "--ca-file", LAPTOP_CA) as way:
        environment = {**way, "GLOBUS_COMPUTE_USER_DIR": "/root/bob-in-person"}
        with Terminal(laptop.command(*command, environment=environment), os.environ) as terminal:
            link = terminal.wait_for(r"http://localhost:5000/v2/oauth2/authorize\S+")[0]
            said = laptop.run(warm.sdk / "bin/python", "-c", SIGN_IN, link, who, PASSWORD)
            terminal.type_line(said.stdout.strip())
            assert terminal.ended() == 0, terminal.text
            assert f'"value": ["bob", "{warm.host.name}"]' in terminal.text


def test_the_forwarder_passes_on_refusals_and_says_what_is_away(
    warm: WarmSite, laptop: Host
) -> None:
    def ask(path: str) -> tuple[int, dict[str, object]]:
        url = f"http://localhost:5000{path}"
        said = laptop.run("python3", "-c", ASK, url).stdout
        status, _, body = said.partition("\n")
        return int(status), json.loads(body)

    with connected(laptop, "--ca-file", LAPTOP_CA):
        assert ask("/v2/version?service=all")[0] == 200
        status, body = ask("/v2/get_amqp_result_connection_url")
        assert (status, body["code"]) == (401, "UNAUTHENTICATED")
        assert ask("/v2/endpoints/x%2Fy")[0] in (401, 404)
        began = time.monotonic()
        warm.services.run("systemctl", "stop", *SERVICES_UNITS)
        # The forwarder keeps a connection for later, which is no reason to wait.
        assert time.monotonic() - began < 10
        try:
            status, body = ask("/v2/version?service=all")
        finally:
            warm.services.run("systemctl", "start", *SERVICES_UNITS)
        assert (status, body["code"]) == (502, "SERVICES_UNREACHABLE")
        assert SERVICES_URL in str(body["message"])
        assert ask("/v2/version?service=all")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((SERVICES_URL,), "certificate is not to be trusted: unable to get local issuer"),
        ((f"https://{COMPUTE}", "--ca-file", LAPTOP_CA), "IP address mismatch"),
        ((f"https://{LOGIN_NODE}", "--ca-file", LAPTOP_CA), "Cannot reach"),
        ((SERVICES_URL, "--ca-file", "/etc/hosts"), "no certificate in PEM form"),
        ((SERVICES_URL, "--ca-file", "/nowhere"), "No such file"),
        (("http://site.example",), "not the URL"),
        ((SERVICES_URL, "--ca-file", LAPTOP_CA, "--listen", "5000"), "not HOST:PORT"),
    ],
)
def test_the_forwarder_does_not_start_in_vain(
    laptop: Host, arguments: tuple[str, ...], said: str
) -> None:
    done = laptop.run(*CONNECT, *arguments, user="ann", check=False, timeout=30)
    assert done.returncode in (64, 69, 78)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_rest_of_the_services_it_says_what_is_missing(laptop: Host) -> None:
    done = laptop.run(CONNECT[0], "serve", user="ann", check=False)
    assert done.returncode == 69
    assert "globus-compute-endpoint[services]" in done.stderr


@pytest.mark.parametrize("command", ["globus-compute-endpoint", "gce"])
def test_a_wheel_installed_by_pipx_needs_nothing_of_the_system(laptop: Host, command: str) -> None:
    path = f"/home/ann/.local/bin/{command}"
    assert laptop.run("sh", "-c", "command -v gcc cc", check=False).stdout == ""
    assert "5.0.0" in laptop.run(path, "version", user="ann").stdout
    made = laptop.run(path, "configure", f"from-{command}", user="ann")
    assert f"Created profile for endpoint named <from-{command}>" in made.stdout
    for subcommand in ("start", "configure", "version"):
        assert "Usage:" in laptop.run(path, subcommand, "--help", user="ann").stdout
    python = "/home/ann/.local/pipx/venvs/globus-compute-endpoint/bin/python"
    for module in ("systemd", "xattr", "globus_identity_mapping"):
        assert laptop.run(python, "-c", f"import {module}", user="ann", check=False).returncode == 1


def test_an_endpoint_of_ones_own_from_the_wheel(warm: WarmSite, laptop: Host) -> None:
    """As configured, but for where the services are: AMQPS by the URL's port, which is 443."""
    endpoint = "/home/ann/.local/bin/globus-compute-endpoint"
    client = warm.site.create_client("ann")
    laptop.run(endpoint, "configure", "mine", user="ann")
    config = "/home/ann/.globus_compute/mine/config.yaml"
    where = {"compute_url": SERVICES_URL, "auth_url": SERVICES_URL, "ca_file": LAPTOP_CA}
    laptop.run("tee", "-a", config, stdin=f"services: {json.dumps(where)}\n")
    command = (endpoint, "start", "--attach", "mine")
    with laptop.background(*command, user="ann", environment=client.environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Starting endpoint; registered ID: "), line
        endpoint_id = line.rpartition(" ")[2].strip()
        person = Researcher(laptop, "ann", client, warm.sdk, endpoint_id)
        user, node = person.call(who_and_where)
        assert (user, node) == ("ann", laptop.name)
