# SPDX-License-Identifier: Apache-2.0
"""Measure a user endpoint alone: packed tasks straight to its queue, results straight from it.

    tests/endpoint/run --python -m benchmarks.raw --journal [--engine TYPE…] [--tasks N]

Needs only a broker. Times are of one machine which also runs broker and driver: compare
figures of one machine only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import pika
import psutil

from endpoint.harness import Harness
from support.tasks import packed_task

ENGINES = {
    "ThreadPoolEngine": "{type: ThreadPoolEngine, max_workers: 2}",
    "ProcessPoolEngine": "{type: ProcessPoolEngine, max_workers: 2}",
    "GlobusComputeEngine": (
        "{type: GlobusComputeEngine, max_workers_per_node: 2, prefetch_capacity: %d,"
        " provider: {type: LocalProvider, init_blocks: 1, max_blocks: 1, min_blocks: 0}}"
    ),
}


def noop() -> None:
    return None


class Driver:
    """Publishes tasks, and counts results as they come."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.arrived = 0
        queue = f"{harness.endpoint_id}.test.results"
        for tag in list(harness.channel.consumer_tags):
            harness.channel.basic_cancel(tag)
        harness.channel.basic_consume(queue, self._count, auto_ack=True)

    def _count(self, *_: object) -> None:
        self.arrived += 1

    def publish(self, message: tuple[str, bytes]) -> None:
        task_id, body = message
        headers = {"task_uuid": task_id, "function_uuid": str(uuid4())}
        properties = pika.BasicProperties(headers=headers, delivery_mode=2)
        self.harness.channel.basic_publish("", self.harness.task_queue, body, properties)

    def wait(self, count: int, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while self.arrived < count:
            assert time.monotonic() < deadline, f"{self.arrived} of {count} results"
            self.harness.broker.process_data_events(1)


def measure(engine: str, tasks: int, prefetch: int, journal: bool) -> None:
    with tempfile.TemporaryDirectory() as home:
        harness = Harness(Path(home), journal=journal)
        try:
            _measure(harness, engine, tasks, prefetch)
        finally:
            harness.close()


def _measure(harness: Harness, engine: str, tasks: int, prefetch: int) -> None:
    driver = Driver(harness)
    options = ENGINES[engine]
    began = time.perf_counter()
    harness.start(f"engine: {options % prefetch if '%' in options else options}\n")
    driver.publish(packed_task(noop))
    driver.wait(1)
    cold = time.perf_counter() - began
    latencies = []
    for _ in range(300):
        message, seen = packed_task(noop), driver.arrived
        sent = time.perf_counter()
        driver.publish(message)
        driver.wait(seen + 1)
        latencies.append((time.perf_counter() - sent) * 1000)
    messages = [packed_task(noop) for _ in range(tasks)]
    assert harness.process is not None
    tree = psutil.Process(harness.process.pid)
    cpu, seen, sent = sum(tree.cpu_times()[:2]), driver.arrived, time.perf_counter()
    for message in messages:
        driver.publish(message)
    driver.wait(seen + tasks)
    took = time.perf_counter() - sent
    cpu = (sum(tree.cpu_times()[:2]) - cpu) * 1000 / tasks
    family = [tree, *tree.children(recursive=True)]
    memory = sum(each.memory_full_info().pss for each in family) / 2**20
    p50, p95, p99 = (statistics.quantiles(latencies, n=100)[n] for n in (49, 94, 98))
    print(
        f"{engine:<20} cold {cold:5.2f} s   closed loop p50 {p50:5.2f} p95 {p95:5.2f}"
        f" p99 {p99:5.2f} ms   {tasks / took:6.0f} tasks/s   {cpu:.2f} ms CPU/task"
        f"   {len(family)} processes, PSS {memory:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--prefetch", type=int, default=0, help="HTEX's prefetch_capacity")
    parser.add_argument("--journal", action="store_true", help="log to journald too, as installed")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load:.1f} before")
    for engine in options.engine:
        measure(engine, options.tasks, options.prefetch, options.journal)


if __name__ == "__main__":
    main()
