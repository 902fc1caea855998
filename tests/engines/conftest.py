# SPDX-License-Identifier: Apache-2.0
"""An engine on an event loop, without any broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from globus_compute_common.messagepack.message_types import Result
from pydantic import TypeAdapter

from globus_compute_endpoint.config.engines import EngineConfig
from globus_compute_endpoint.engines.base import Engine, EngineContext, TaskRequest
from globus_compute_endpoint.engines.factory import build
from globus_compute_endpoint.engines.marks import open_marks
from globus_compute_endpoint.problem import Problem
from support.tasks import packed_task, read_result, value_of

_configs: TypeAdapter[Any] = TypeAdapter(EngineConfig)


class NoJobs:
    """Tests in here submit no batch jobs."""

    earlier: tuple[str, ...] = ()

    def note(self, job_id: str) -> None:
        raise AssertionError(job_id)

    def forget(self, job_id: str) -> None:
        raise AssertionError(job_id)


class Bench:
    """Submits functions, and waits for their packed results."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.problems: list[Problem] = []
        self.begun: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self._results: dict[str, asyncio.Future[bytes]] = {}
        self._news = asyncio.Event()

    def submit(self, function: Any, *args: Any, **more: Any) -> asyncio.Future[bytes]:
        task_id, body = packed_task(function, *args)
        future = asyncio.get_running_loop().create_future()
        self._results[task_id] = future
        self.engine.submit(TaskRequest(task_id, body, time.time_ns(), **more))
        return future

    async def value(self, function: Any, *args: Any, **more: Any) -> Any:
        return value_of(await asyncio.wait_for(self.submit(function, *args, **more), 60))

    async def error(self, function: Any, *args: Any, **more: Any) -> tuple[str, str]:
        packed = await asyncio.wait_for(self.submit(function, *args, **more), 60)
        return error_in(read_result(packed))

    async def have_begun(self, count: int) -> None:
        """Wait until so many tasks have begun."""
        async with asyncio.timeout(40):
            while len(self.begun) < count:
                self._news.clear()
                await self._news.wait()

    def has_begun(self, task_id: str) -> None:
        self.begun.append(task_id)
        self._news.set()

    def delivered(self, task_id: str, packed: bytes) -> None:
        self._results.pop(task_id).set_result(packed)  # a second result is a KeyError


def error_in(result: Result) -> tuple[str, str]:
    assert result.error_details is not None, result.data
    return result.error_details.code, result.data


Started = Callable[[dict[str, Any]], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def started(tmp_path: Path) -> Started:
    @asynccontextmanager
    async def start(options: dict[str, Any]) -> AsyncIterator[Bench]:
        engine = build(_configs.validate_python(options))
        bench = Bench(engine)
        context = EngineContext(
            str(uuid4()),
            tmp_path,
            bench.delivered,
            bench.problems.append,
            "test worker",
            bench.has_begun,
            lambda task_id, reason: bench.lost.append((task_id, reason)),
            open_marks(tmp_path / "marks"),
            NoJobs(),
        )
        await engine.start(context)
        try:
            yield bench
        finally:
            await asyncio.wait_for(engine.stop(), 60)

    return start
