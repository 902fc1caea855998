# SPDX-License-Identifier: Apache-2.0
"""Blocks which fail beside others that work, or come when nobody wants them any more."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines.conftest import Started
from engines.test_globus_compute import ENGINE, pool_pid
from engines.test_scaling import engine
from engines.test_starts import wait_for
from globus_compute_endpoint.engines.providers import PromptLocalProvider
from support.tasks import value_of
from support.waiting import until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


async def test_a_block_that_works_is_not_given_up_for_others_that_fail(
    started: Started, tmp_path: Path
):
    options = engine(init_blocks=0, max_blocks=2)
    failed, gate = tmp_path / "failed", tmp_path / "gate"
    failed.touch()
    only_once = f"mkdir {tmp_path}/first || {{ echo x >>{failed}; exit 4; }}"
    options["provider"]["worker_init"] = only_once
    async with started(options) as bench:
        pool = await bench.value(pool_pid)
        running, waiting = bench.submit(wait_for, str(gate)), bench.submit(pool_pid)
        await asyncio.to_thread(until, lambda: len(failed.read_text().split()) >= 3)
        await asyncio.sleep(1.5)  # until that is known
        gate.touch()
        assert value_of(await running) == "open"
        assert value_of(await waiting) == pool
        assert len(failed.read_text().split()) <= 4  # no more are asked for, for a while


def processes(directory: Path) -> list[list[str]]:
    found = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    return [words for words in found if any(str(directory) in word for word in words)]


async def test_no_block_is_left_which_was_started_while_the_engine_stopped(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    submit: Any = PromptLocalProvider.submit
    begun, done = threading.Event(), threading.Event()

    def submit_slowly(*arguments: Any) -> Any:
        begun.set()
        time.sleep(1)
        job = submit(*arguments)
        done.set()
        return job

    monkeypatch.setattr(PromptLocalProvider, "submit", submit_slowly)
    async with started(engine(init_blocks=2, max_blocks=2)):
        await asyncio.to_thread(begun.wait)
    await asyncio.to_thread(done.wait)
    assert not processes(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_workers_which_end_at_once_are_given_up(started: Started):
    too_many = {"cpu_affinity": "list:0:0:0", "heartbeat_period": 1}  # for two workers
    async with started(ENGINE | too_many) as bench:
        code, text = await bench.error(pool_pid)
        assert code == "NoWorkers"
        assert "its workers end as soon as they are started: ValueError: Affinity list" in text
