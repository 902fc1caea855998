# SPDX-License-Identifier: Apache-2.0
"""The lock of an endpoint's directory."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import NoReturn

import pytest

from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory


def test_one_holds_it_and_the_next_is_told_who(tmp_path: Path):
    directory = EndpointDirectory(tmp_path)
    with directory.lock(), pytest.raises(Problem, match=f"is running \\(pid {os.getpid()}\\)"):
        directory.lock()
    directory.lock().close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_hindrance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
):
    def refuse(*_arguments: object) -> NoReturn:  # no such file system can be had here
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    EndpointDirectory(tmp_path).lock().close()
    assert "locks do not work here" in caplog.text
