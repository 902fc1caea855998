# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.spawner.obituary import Obituary

ONE, OTHER = UUID(int=1), UUID(int=2)


def test_a_successor_knows_how_children_ended(tmp_path: Path) -> None:
    path = tmp_path / "ended.json"
    first = Obituary(path)
    first.add(ONE, 100, 9)
    first.add(ONE, 200, 0)
    first.add(OTHER, 300, 15)
    for obituary in (first, Obituary(path)):
        assert obituary.of(ONE, 100) == 9
        assert obituary.last_of(ONE) == 0
        assert obituary.of(ONE, 300) is None
        assert obituary.last_of(UUID(int=3)) is None


def test_who_ended_before_another_was_born_says_nothing_of_that(tmp_path: Path) -> None:
    """The other may end as nobody's child, and nobody knows how."""
    path = tmp_path / "ended.json"
    first = Obituary(path)
    first.add(ONE, 100, 9)
    first.add(OTHER, 200, 15)
    first.forget(ONE)
    for obituary in (first, Obituary(path)):
        assert obituary.last_of(ONE) is None
        assert obituary.last_of(OTHER) == 15


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    obituary = Obituary(tmp_path / "ended.json")
    for pid in range(1100):
        obituary.add(ONE, pid, 0)
    assert Obituary(tmp_path / "ended.json").of(ONE, 50) is None
    assert obituary.of(ONE, 1099) == 0


def test_a_damaged_or_unwritable_file_is_no_reason_to_end(tmp_path: Path) -> None:
    path = tmp_path / "ended.json"
    path.write_text("[[")
    assert Obituary(path).last_of(ONE) is None
    obituary = Obituary(tmp_path / "missing" / "ended.json")
    obituary.add(ONE, 1, 9)
    assert obituary.last_of(ONE) == 9
