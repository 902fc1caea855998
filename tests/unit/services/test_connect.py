# SPDX-License-Identifier: Apache-2.0
"""The forwarder's addresses; tests/system/test_three_machines.py has it at work."""

import ssl

import pytest

from globus_compute_services.connect.address import Address
from globus_compute_services.connect.tunnel import Tunnel
from globus_compute_services.problem import ExitStatus, Problem


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000, True),
        ("localhost:1", "localhost", 1, True),
        ("[::1]:5000", "::1", 5000, True),
        ("0.0.0.0:5000", "0.0.0.0", 5000, False),
        ("laptop.example.org:5000", "laptop.example.org", 5000, False),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "5000", ":5000", "host:", "host:0", "host:70000", "host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Problem, match="HOST:PORT") as caught:
        Address.parse(text)
    assert caught.value.exit_status == ExitStatus.USAGE


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("amqps://me:p%40w@mq.example.org:443/v%2F", "amqp://me:p%40w@127.0.0.1:5001/v%2F"),
        ("amqps://me:pw@mq.example.org/v?heartbeat=5", "amqp://me:pw@127.0.0.1:5001/v?heartbeat=5"),
        ("amqp://me:pw@mq.example.org:5672/v", "amqp://me:pw@mq.example.org:5672/v"),
    ],
)
def test_urls_of_brokers_with_tls_lead_here(url: str, local: str) -> None:
    tunnel = Tunnel(ssl.create_default_context(), Address("127.0.0.1", 5001))
    assert tunnel.reroute(url) == local
