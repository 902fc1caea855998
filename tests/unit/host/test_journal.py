# SPDX-License-Identifier: Apache-2.0
"""What journald is sent, and that nobody waits for it."""

import logging
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from globus_compute_endpoint.host import journal

log = logging.getLogger("globus_compute_endpoint.test")


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.handlers = []
    path = tmp_path / "socket"
    monkeypatch.setattr(journal, "_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        journal.log_to_journal("tests")
        yield listener
    root.handlers = before
    root.setLevel(level)


def received(journald: socket.socket) -> dict[str, str]:
    """Take one message apart."""
    data, fields = journald.recv(1 << 20), {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def test_fields_arrive_as_they_were_given(journald: socket.socket):
    log.warning("two\nlines of %s", "text", extra={"GC_TASK_ID": "a-task"})
    fields = received(journald)
    assert fields["MESSAGE"] == "two\nlines of text"
    assert fields["PRIORITY"] == "4"
    assert fields["GC_TASK_ID"] == "a-task"
    assert fields["SYSLOG_IDENTIFIER"] == "tests"
    assert int(fields["CODE_LINE"]) > 0
    assert all(name.isupper() for name in fields)


def test_an_endless_message_is_cut(journald: socket.socket):
    log.warning("x" * 1_000_000)
    assert 10_000 < len(received(journald)["MESSAGE"]) < 1_000_000


def test_a_journald_which_hangs_holds_nobody_up(journald: socket.socket):
    before = time.monotonic()
    for n in range(2000):
        log.warning("%d", n)
    assert time.monotonic() - before < 2
    taken = 0
    while True:
        try:
            received(journald)
        except BlockingIOError:
            break
        taken += 1
    assert taken < 2000
    log.warning("again")
    told = received(journald)
    assert told["MESSAGE"].startswith(f"{2000 - taken} messages were dropped")
    assert told["SYSLOG_IDENTIFIER"] == "tests"
    assert received(journald)["MESSAGE"] == "again"
