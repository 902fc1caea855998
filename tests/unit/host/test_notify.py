# SPDX-License-Identifier: Apache-2.0
import os
import socket

from globus_compute_endpoint.host.notify import notify


def test_a_value_cannot_bring_a_field_of_its_own(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify(STATUS=f"x\nWATCHDOG=trigger\r\nMAINPID={os.getpid()}\x00\u2028y")
        lines = manager.recv(4096).decode().split("\n")
    assert len(lines) == 1
    assert lines[0].startswith("STATUS=x ")
