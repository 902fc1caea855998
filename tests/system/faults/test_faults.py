# SPDX-License-Identifier: Apache-2.0
"""Each fault once, at a moment of chance, under load: nothing is lost, nothing done twice."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from system.faults.catalogue import FAULTS
from system.faults.stage import Stage


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost(stage: Stage, seed: str, tell: Callable[[str], None], name: str) -> None:
    episode = stage.play(FAULTS[name], random.Random(f"{seed} {name}"), tell)
    assert not episode.complaint(stage.books)
