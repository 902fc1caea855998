# SPDX-License-Identifier: Apache-2.0
"""What a diagnostic archive must not hold, and what its checks say of servers which misbehave."""

from __future__ import annotations

import socket
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.diagnostics import checks
from globus_compute_endpoint.diagnostics.addresses import Address, Addresses, addresses_of
from globus_compute_endpoint.diagnostics.archive import write_archive
from globus_compute_endpoint.diagnostics.redaction import redact, without_values
from globus_compute_endpoint.problem import ExitStatus, Problem


@pytest.mark.parametrize(
    "text",
    [
        "connected to amqps://user:HUSH-hush/1@broker.example:443/vhost",
        "url: https://alice:HUSHhush@example.org/",
        "GLOBUS_COMPUTE_CLIENT_SECRET=HUSHhush\n",
        "export API_TOKEN='HUSH hush'\n",
        "client_secret: HUSHhush\n",
        '{"password": "HUSH, \\"hush\\"", "name": "x"}',
        "  db_password: |\n    HUSHhush\n    HUSHagain\n",
        "Authorization: Bearer HUSHhushHUSHhush",
        "sent 'Bearer HUSHhushHUSHhush' to them",
        "access_token=HUSHhush&expires_in=3",
        "options: {apikey: HUSHhush, partition: debug}",
    ],
)
def test_secrets_are_taken_out(text: str):
    cleaned = redact(text)
    assert "HUSH" not in cleaned
    assert "<removed>" in cleaned


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch):
    text = (
        "engine:\n  provider: {partition: debug}\n  address: 192.0.2.1\n# https://x.example/a:b\n"
    )
    assert redact(text) == text
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", "HUSHhush")
    assert redact("it said HUSHhush to me") == "it said <removed> to me"
    after = redact("a_token: |\n  HUSH\nengine:\n  type: ThreadPoolEngine\n")
    assert after == "a_token: <removed>\nengine:\n  type: ThreadPoolEngine\n"


def test_environment_files_keep_their_names():
    text = "# as is\nPATH: /opt/bin:/bin\nLICENSE=HUSH\nexport A=HUSH hush\n#OLD=HUSH\nEMPTY=\n"
    lines = without_values(text).splitlines()
    gone = [f"{name} <removed>" for name in ("PATH:", "LICENSE=", "export A=", "#OLD=")]
    assert lines == ["# as is", *gone, "EMPTY="]


@pytest.mark.parametrize("name", ["collected.tgz", "collected", "collected.tar.gz"])
def test_an_archive_can_be_unpacked_where_it_is(tmp_path: Path, name: str):
    write_archive(tmp_path / name, [("a", "b")])
    with tarfile.open(tmp_path / name) as archive:
        assert not {each.split("/")[0] for each in archive.getnames()} & {name}


def test_an_archive_is_its_owners_and_never_overwrites(tmp_path: Path):
    path = tmp_path / "collected.tar.gz"
    write_archive(path, [("a/b.txt", "one"), ("c.txt", "zwei ✓")])
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["collected/a/b.txt", "collected/c.txt"]
        member = archive.extractfile("collected/c.txt")
        assert member is not None and member.read().decode() == "zwei ✓"
    with pytest.raises(Problem) as caught:
        write_archive(path, [])
    assert caught.value.exit_status is ExitStatus.CANNOT_CREATE

    def broken() -> Iterator[tuple[str, str]]:
        yield "a", "b"
        raise ValueError

    with pytest.raises(ValueError):
        write_archive(tmp_path / "half.tar.gz", broken())
    assert not (tmp_path / "half.tar.gz").exists()


@pytest.mark.parametrize(
    ("config", "log", "broker"),
    [
        ({}, "", "amqps compute.amqps.globus.org 443"),
        ({"amqp_port": 5671}, "", "amqps compute.amqps.globus.org 5671"),
        ({"environment": "preview"}, "", "amqps compute.amqps.preview.globus.org 443"),
        ({"local_compute_services": True}, "", "amqp localhost 5672"),
        ({"services": {"compute_url": "https://gc.example"}}, "", "amqps gc.example 5671"),
        (
            {"services": {"compute_url": "https://gc.example"}, "amqp_port": 443},
            "tasks: connected to amqps://old.example:5671/v\ntasks: connected to amqps://mq.example/v\n",
            "amqps mq.example 443",
        ),
        ({}, "x: connected to amqp://localhost:5672/%2F", "amqp localhost 5672"),
    ],
)
def test_the_broker_is_where_the_endpoint_was_told(config, log: str, broker: str, monkeypatch):
    monkeypatch.delenv("GLOBUS_SDK_ENVIRONMENT", raising=False)
    found = addresses_of(CommonConfig.model_validate(config), log).broker
    assert f"{found.scheme} {found.host} {found.port}" == broker


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Something which listens, and treats each that comes in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        answer(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def results(
    scheme: str, port: int, ca_file: Path | None = None
) -> dict[str, tuple[bool | None, str]]:
    compute = Address("http", "127.0.0.1", port, "config.yaml")
    broker = Address(scheme, "127.0.0.1", port, "the log")
    addresses = Addresses(f"http://127.0.0.1:{port}", compute, compute, broker, ca_file)
    found = {}
    for check in checks.check_services(addresses):
        assert check.hint if check.ok is False else not check.hint
        found[check.name.replace(f"127.0.0.1:{port}", "there")] = (check.ok, check.detail)
    return found


def says(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(data)

    return answer


def test_a_port_where_nothing_listens():
    with server(says(b"")) as port:
        pass
    found = results("amqps", port)
    assert found["REST: TCP there"] == (False, "Connection refused")
    assert found["REST: GET /v2/version"] == (None, "not tried")
    assert found["AMQP: TLS there"] == (None, "not tried")
    assert found["AMQP: handshake"] == (None, "not tried")


def test_services_and_a_broker_which_answer():
    body = b'HTTP/1.0 200 OK\r\n\r\n{"api": "5.0"}'
    with server(says(body)) as port:
        assert results("amqp", port)["REST: GET /v2/version"] == (True, "version 5.0")
    with server(says(b"\x01\x00\x00\x00\x00\x02\x12\x00")) as port:
        assert results("amqp", port)["AMQP: handshake"][0] is True


@pytest.mark.parametrize(
    ("data", "version", "handshake"),
    [
        (b"", "closed connection without response", "closed without an answer"),
        (b"HTTP/1.0 403 Forbidden\r\n\r\nproxy", "HTTP 403 Forbidden", "is no AMQP"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "Expecting value", "is no AMQP"),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", "has no version", "is no AMQP"),
    ],
)
def test_servers_which_are_something_else(data: bytes, version: str, handshake: str):
    with server(says(data)) as port:
        found = results("amqp", port)
    ok, detail = found["REST: GET /v2/version"]
    assert ok is False and version in detail
    ok, detail = found["AMQP: handshake"]
    assert ok is False and handshake in detail


def test_a_server_which_is_silent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "_TIMEOUT", 0.3)
    over = threading.Event()

    def wait(_connection: socket.socket) -> None:
        over.wait(5)

    with server(wait) as port:
        found = results("amqp", port)
        over.set()
    assert found["REST: TCP there"][0] is True
    assert found["REST: GET /v2/version"] == (False, "no answer within 0.3 s")
    assert found["AMQP: handshake"] == (False, "no answer within 0.3 s")


def test_certificates_are_checked(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*asked, *names, *files], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            says(b"\x01\x00\x00\x00\x00\x02\x12\x00")(encrypted)

    with server(answer) as port:
        strange = results("amqps", port)
        known = results("amqps", port, certificate)
    assert strange["AMQP: TLS there"][0] is False
    assert "the certificate is refused: self-signed" in strange["AMQP: TLS there"][1]
    assert strange["AMQP: handshake"] == (None, "not tried")
    assert known["AMQP: TLS there"] == (True, "TLSv1.3, certificate valid")
    assert known["AMQP: handshake"][0] is True
