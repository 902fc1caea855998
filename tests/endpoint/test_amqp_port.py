# SPDX-License-Identifier: Apache-2.0
"""``amqp_port``: by each of the ports that sites leave open, with TLS where the URL says so."""

import contextlib
from pathlib import Path

import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import THREADS, add, value
from endpoint.tls import Certificates, front_in_a_thread, make_certificates
from globus_compute_endpoint.cli.profiles import default_file

pytestmark = pytest.mark.timeout(60)

NOWHERE = 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def url(scheme: str, port: int) -> str:
    return f"{scheme}://guest:guest@127.0.0.1:{port}/%2F"


@contextlib.contextmanager
def broker_at(scheme: str, port: int, certificates: Certificates):
    if (scheme, port) == ("amqp", 5672):  # RabbitMQ's own
        yield
        return
    with front_in_a_thread(certificates if scheme == "amqps" else None, port):
        yield


@pytest.mark.parametrize(
    ("scheme", "port"),
    [("amqps", 443), ("amqps", 5671), ("amqp", 443), ("amqp", 5671), ("amqp", 5672)],
)
def test_the_option_replaces_the_port_of_the_url(
    harness: Harness, certificates: Certificates, scheme: str, port: int
):
    with broker_at(scheme, port, certificates):
        handed = {"ca_certificates": certificates.authority.read_text()}
        creds = harness.credentials(url(scheme, NOWHERE))
        harness.start(THREADS, amqp_creds=creds, amqp_port=port, **handed)
        assert value(harness, harness.submit(add, 2, 3)) == 5
        harness.close()


def test_the_templates_port_goes_before_the_managers(harness: Harness, certificates: Certificates):
    with broker_at("amqps", 443, certificates):
        template = f"{THREADS}amqp_port: 443\nservices: {{ca_file: {certificates.authority}}}\n"
        creds = harness.credentials(url("amqps", NOWHERE))
        harness.start(template, amqp_creds=creds, amqp_port=NOWHERE)
        assert value(harness, harness.submit(add, 2, 3)) == 5
        harness.close()


def test_without_the_option_the_url_decides(harness: Harness, certificates: Certificates):
    assert "amqp_port" not in default_file("config.yaml")
    with broker_at("amqps", 5671, certificates):
        handed = {"ca_certificates": certificates.authority.read_text()}
        creds = harness.credentials("amqps://guest:guest@127.0.0.1/%2F")  # 5671 is AMQPS's own
        harness.start(THREADS, amqp_creds=creds, **handed)
        assert value(harness, harness.submit(add, 2, 3)) == 5
        harness.close()


def test_a_failure_is_told_by_the_same_way(
    harness: Harness, certificates: Certificates, tmp_path: Path
):
    with broker_at("amqps", 443, certificates):
        handed = {"ca_certificates": certificates.authority.read_text()}
        creds = harness.credentials(url("amqps", NOWHERE))
        harness.start("engine: {type: NoEngine}", amqp_creds=creds, amqp_port=443, **handed)
        harness.wait_for(lambda: harness.heartbeats)
        assert "NoEngine" in harness.heartbeats[-1].global_state["error"]
        assert harness.exit_status() == 78
