# SPDX-License-Identifier: Apache-2.0
"""Which hosts an endpoint needs to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from globus_compute_sdk.sdk._environments import get_amqp_service_host, get_web_service_url
from globus_sdk.config import get_service_url

from globus_compute_endpoint.config.common import CommonConfig

__all__ = ["Address", "Addresses", "addresses_of"]

_PORTS = {"http": 80, "https": 443, "amqp": 5672, "amqps": 5671}
_HOSTED_AMQP_PORT = 443
_BROKER = re.compile(r"connected to (amqps?)://([^\s:/@]+|\[[0-9a-f:]+\])(?::(\d+))?")


@dataclass(frozen=True)
class Address:
    """Something that listens. ``source`` says how it is known."""

    scheme: str
    host: str
    port: int
    source: str

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken there."""
        return self.scheme in ("https", "amqps")


@dataclass(frozen=True)
class Addresses:
    """The three which an endpoint needs; ``compute_url`` as requests are made to."""

    compute_url: str
    compute: Address
    auth: Address
    broker: Address
    ca_file: Path | None


def addresses_of(config: CommonConfig, log: str = "") -> Addresses:
    """Return the addresses which a configuration leads to.

    The services tell an endpoint its broker when it registers. So that is taken from the
    endpoint's ``log``, and where it has none, from what is usual.
    """
    environment = "local" if config.local_compute_services else config.environment
    given = config.services
    compute_url = str(given.compute_url or get_web_service_url(environment)).rstrip("/")
    source = "config.yaml" if given.compute_url else "the SDK"
    auth_url = str(given.auth_url) if given.auth_url else _usual_auth(config.environment)
    compute = _address(compute_url, source)
    broker = _from_log(log) or _usual_broker(
        compute, None if given.compute_url else get_amqp_service_host(environment)
    )
    if config.amqp_port is not None:
        broker = Address(broker.scheme, broker.host, config.amqp_port, broker.source)
    return Addresses(
        compute_url=compute_url,
        compute=compute,
        auth=_address(auth_url or compute_url, "config.yaml" if given.auth_url else "the SDK"),
        broker=broker,
        ca_file=given.ca_file,
    )


def _usual_auth(environment: str | None) -> str | None:
    try:
        return get_service_url("auth", environment=environment)
    except ValueError:  # as "local", which is of Compute alone
        return None


def _address(url: str, source: str) -> Address:
    parts = urlsplit(url)
    return Address(
        parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443), source
    )


def _from_log(log: str) -> Address | None:
    found = _BROKER.findall(log)
    if not found:
        return None
    scheme, host, port = found[-1]
    return Address(scheme, host.strip("[]"), int(port or _PORTS[scheme]), "the log")


def _usual_broker(compute: Address, hosted: str | None) -> Address:
    if compute.encrypted and hosted:
        return Address("amqps", hosted, _HOSTED_AMQP_PORT, "the SDK")
    scheme = "amqps" if compute.encrypted else "amqp"
    return Address(scheme, compute.host, _PORTS[scheme], "a guess: not registered yet")
