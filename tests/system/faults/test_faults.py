# SPDX-License-Identifier: Apache-2.0
"""Each fault once, at a moment of chance, under load: nothing is lost, nothing done twice."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from system.faults.catalogue import FAULTS
from system.faults.stage import Stage


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.soak_only])
def test_nothing_is_lost(stage: Stage, seed: str, tell: Callable[[str], None], name: str) -> None:
    episode = stage.play(FAULTS[name], random.Random(f"{seed} {name}"), tell)
    assert episode.complaints(stage.books) == []


def test_nothing_is_left_over(stage: Stage) -> None:
    balance, left = stage.come_to_rest()
    assert (stage.books.complaints(balance), left) == ([], [])
