# SPDX-License-Identifier: Apache-2.0
"""User endpoints where their users are: run these with ``tests/endpoint/run tests/clusters``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint.harness import Harness
from support import slurm


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Slurm cluster of four nodes with two CPUs each, for all tests that ask for it."""
    with slurm.cluster(nodes=4):
        yield


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.close()
