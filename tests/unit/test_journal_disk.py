# SPDX-License-Identifier: Apache-2.0
"""Journals are kept where they last, or it is said that they are not."""

import logging
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError

from globus_compute_endpoint.config.journal import JournalConfig
from globus_compute_endpoint.host.file_systems import FileSystem
from globus_compute_endpoint.host.paths import state_directory
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint import journal_disk
from globus_compute_endpoint.user_endpoint.journal_disk import check_place, journal_directory


def on(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(journal_disk, "file_system_of", lambda _: FileSystem(kind, Path("/mnt")))


def test_memory_is_refused_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    on(monkeypatch, "tmpfs")
    with pytest.raises(Problem) as refused:
        check_place(tmp_path, allow_volatile=False)
    assert refused.value.code == "VOLATILE_JOURNAL"
    assert str(tmp_path) in refused.value.message
    assert "journal: {directory: …}" in refused.value.hint
    with pytest.raises(Problem) as systems:
        check_place(state_directory(1000, uuid4()), allow_volatile=False)
    assert "the administrator mounts a disk" in systems.value.hint
    check_place(tmp_path, allow_volatile=True)


def test_a_file_server_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    on(monkeypatch, "ext4")
    check_place(tmp_path, allow_volatile=False)
    assert not caplog.records
    on(monkeypatch, "nfs4")
    with caplog.at_level(logging.WARNING):
        check_place(tmp_path, allow_volatile=False)
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage()
    assert "nfs4 at /mnt" in record.getMessage()


def test_each_endpoint_has_a_directory_of_its_own(tmp_path: Path):
    one, other = uuid4(), uuid4()
    config = JournalConfig(directory=tmp_path / "journals")
    made = journal_directory(config, one)
    assert made is not None
    assert made.stat().st_mode & 0o777 == 0o700
    assert made != journal_directory(config, other)
    assert journal_directory(JournalConfig(), one) is None
    with pytest.raises(ValidationError, match="absolute"):
        JournalConfig(directory=Path("journals"))
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match="cannot write"):
        journal_directory(JournalConfig(directory=tmp_path / "file"), one)
