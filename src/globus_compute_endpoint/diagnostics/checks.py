# SPDX-License-Identifier: Apache-2.0
"""Trying what an endpoint needs: each check has a result, a reason, and a time-out."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from globus_compute_endpoint.diagnostics.addresses import Address, Addresses

__all__ = ["Check", "attempt", "check_services"]

_TIMEOUT = 10.0  # seconds for each
_AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = 1
_SHOWN = 200


@dataclass(frozen=True)
class Check:
    """What came of a check. ``ok`` is None where it was not tried, because another had failed."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    seconds: float = 0.0


def attempt(name: str, hint: str, function: Callable[[], str]) -> Check:
    """Run a check, which returns what it has seen or raises; it has ten seconds in all.

    Looking up names cannot be interrupted: the thread which waits for that is left behind.
    """
    outcome: list[Check] = []
    began = time.monotonic()

    def run() -> None:
        try:
            ok, detail, advice = True, function(), ""
        except Exception as error:  # noqa: BLE001  (whatever it was, it is the result)
            ok, detail, advice = False, _explain(error), hint
        outcome.append(Check(name, ok, detail, advice, round(time.monotonic() - began, 3)))

    thread = threading.Thread(target=run, daemon=True, name=f"check {name}")
    thread.start()
    thread.join(_TIMEOUT)
    if outcome:
        return outcome[0]
    return Check(name, False, f"no answer within {_TIMEOUT:g} s", hint, _TIMEOUT)


def check_services(addresses: Addresses) -> Iterator[Check]:
    """Check the web services, sign-in and the broker, from the socket upwards."""
    yield from _check_web("REST", addresses.compute, addresses.ca_file, addresses.compute_url)
    yield from _check_web("sign-in", addresses.auth, addresses.ca_file, None)
    yield from _check_broker(addresses.broker, addresses.ca_file)


def _check_web(
    what: str, address: Address, ca_file: Path | None, base: str | None
) -> Iterator[Check]:
    connected = yield from _check_connection(what, address, ca_file)
    if base is None:
        return
    name, url = f"{what}: GET /v2/version", f"{base}/v2/version?service=all"
    if not connected:
        yield Check(name, None, "not tried")
        return
    hint = "is this the address of Globus Compute web services, and is a proxy in between?"
    yield attempt(name, hint, lambda: _version(url, _context(ca_file)))


def _check_broker(address: Address, ca_file: Path | None) -> Iterator[Check]:
    connected = yield from _check_connection("AMQP", address, ca_file)
    name = "AMQP: handshake"
    if not connected:
        yield Check(name, None, "not tried")
        return
    hint = "something else listens there, or a firewall breaks AMQP: try another amqp_port"
    yield attempt(name, hint, lambda: _greet(address, ca_file))


def _check_connection(
    what: str, address: Address, ca_file: Path | None
) -> Generator[Check, None, bool]:
    """Yield checks of TCP and TLS; return whether they went well."""
    where = f"{address.host}:{address.port}"
    hint = (
        f"is outbound traffic to port {address.port} allowed? Is the name right ({address.source})?"
    )
    tcp = attempt(f"{what}: TCP {where}", hint, lambda: _connect(address))
    yield tcp
    if not address.encrypted:
        return bool(tcp.ok)
    name = f"{what}: TLS {where}"
    if not tcp.ok:
        yield Check(name, None, "not tried")
        return False
    trusted = f"the authorities in {ca_file}" if ca_file else "this machine's authorities"
    hint = f"the certificate must be of {trusted} (services.ca_file), and name {address.host}"
    tls = attempt(name, hint, lambda: _shake_hands(address, ca_file))
    yield tls
    return bool(tls.ok)


def _connect(address: Address) -> str:
    with socket.create_connection((address.host, address.port), timeout=_TIMEOUT) as connection:
        return f"connected to {connection.getpeername()[0]}"


def _shake_hands(address: Address, ca_file: Path | None) -> str:
    with _open(address, ca_file) as connection:
        assert isinstance(connection, ssl.SSLSocket)
        return f"{connection.version()}, certificate valid"


def _greet(address: Address, ca_file: Path | None) -> str:
    """Offer AMQP 0-9-1; a broker answers with the frame which begins a conversation."""
    with _open(address, ca_file) as connection:
        connection.sendall(_AMQP_GREETING)
        answer = connection.recv(8)
    if not answer:
        raise ConnectionError("the connection was closed without an answer")
    if answer[0] != _METHOD_FRAME:
        raise ConnectionError(f"the answer is no AMQP 0-9-1: {answer!r}")
    return "a broker which speaks AMQP 0-9-1"


def _open(address: Address, ca_file: Path | None) -> socket.socket:
    connection = socket.create_connection((address.host, address.port), timeout=_TIMEOUT)
    if not address.encrypted:
        return connection
    try:
        return _context(ca_file).wrap_socket(connection, server_hostname=address.host)
    except BaseException:
        connection.close()
        raise


def _version(url: str, context: ssl.SSLContext) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT, context=context) as response:  # noqa: S310  (http or https: checked where it was configured)
            body = response.read(65536)
    except urllib.error.HTTPError as error:
        with error:
            raise ConnectionError(f"HTTP {error.code} {error.reason}") from None
    answer = json.loads(body)
    api = answer.get("api") if isinstance(answer, dict) else None
    if not api:
        raise ConnectionError(f"the answer has no version: {body[:_SHOWN]!r}")
    return f"version {api}"


def _context(ca_file: Path | None) -> ssl.SSLContext:
    bundle = os.environ.get("GLOBUS_SDK_VERIFY_SSL", "")
    return ssl.create_default_context(
        cafile=ca_file or (bundle if Path(bundle).is_file() else None)
    )


def _explain(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, Exception) else error
    if isinstance(inner, TimeoutError):
        return f"no answer within {_TIMEOUT:g} s"
    text = (getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).strip()
    if isinstance(inner, ssl.SSLCertVerificationError):
        text = f"the certificate is refused: {inner.verify_message}"
    return text.splitlines()[0][:_SHOWN]
