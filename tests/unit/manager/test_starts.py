# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from uuid import UUID

import pytest

from globus_compute_endpoint.manager.protocol import Identity, Start, pack
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.problem import Problem


def record(number=7):
    start = Start(
        number=1,
        endpoint_id=UUID(int=number),
        name="uep.a.b",
        effective_identity=UUID(int=1),
        identities=(Identity(sub=UUID(int=1), username="alice@example.org"),),
    )
    return StartRecord(start, b'{"amqp_creds": {}}')


def test_a_record_is_there_until_it_is_removed(tmp_path):
    records = StartRecords(tmp_path)
    records.write(record())
    assert list(StartRecords(tmp_path)) == [UUID(int=7)]
    assert StartRecords(tmp_path).read(UUID(int=7)) == record()
    assert (tmp_path / str(UUID(int=7))).stat().st_mode & 0o777 == 0o600
    records.remove(UUID(int=7))
    assert list(records) == []
    assert records.read(UUID(int=7)) is None


def test_it_tells_as_whom_and_since_which_boot_it_runs(tmp_path):
    records = StartRecords(tmp_path)
    written = replace(record(), uid=1001, boot="1700000000")
    records.write(written)
    assert records.read(UUID(int=7)) == written


def test_one_that_was_given_up_is_known_until_it_was_started_again(tmp_path):
    records = StartRecords(tmp_path)
    records.write(record())
    records.give_up(UUID(int=7))
    records = StartRecords(tmp_path)
    assert records.was_given_up(UUID(int=7))
    assert records.read(UUID(int=7)) is None
    assert list(records) == []
    records.take_up_again(UUID(int=7))
    assert not records.was_given_up(UUID(int=7))


def test_records_of_versions_before_the_journal_are_read(tmp_path):
    (tmp_path / str(UUID(int=7))).write_bytes(pack(record().start, record().blob))
    assert StartRecords(tmp_path).read(UUID(int=7)) == record()


def test_what_is_left_of_a_write_cut_short_is_no_record(tmp_path):
    (tmp_path / f"{UUID(int=7)}.new").write_text("half")
    (tmp_path / str(UUID(int=8))).write_text("garbage")
    records = StartRecords(tmp_path)
    assert list(records) == [UUID(int=8)]
    assert records.read(UUID(int=8)) is None


def test_a_disk_that_refuses_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="cannot write"):
        StartRecords(tmp_path / "missing").write(record())
