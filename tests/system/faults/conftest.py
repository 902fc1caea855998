# SPDX-License-Identifier: Apache-2.0
"""One site under one load, for all faults; what the seed was is printed, FAULT_SEED sets it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from system.conftest import LOCAL_USERS, WarmSite
from system.faults.books import heading
from system.faults.load import running_load
from system.faults.residue import measure
from system.faults.stage import Stage


@pytest.fixture(scope="session")
def seed() -> str:
    return os.environ.get("FAULT_SEED") or f"{random.SystemRandom().getrandbits(32):08x}"


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Print a line past pytest's capture: the ledger is this suite's result."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def print_now(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", end="", flush=True)

    return print_now


@pytest.fixture(scope="session")
def stage(warm: WarmSite, seed: str, tell: Callable[[str], None]) -> Iterator[Stage]:
    tell(f"FAULT_SEED={seed}")
    warm.site.start_slurm()
    people = [warm.researcher(name) for name in LOCAL_USERS]
    with running_load(people, warm.endpoint_id, warm.sdk, seed) as load:
        tell(heading())
        yield Stage(warm, load, before=measure(warm))
