# SPDX-License-Identifier: Apache-2.0
"""Run the project's test suites in order, each within its time budget, and sum them up.

    run.py [--suites NAME…] [-- PYTEST-ARGUMENT…]

Without names, all suites run but the long ones. Suites which mostly wait run two at a time, with
their names before what they print. A suite whose budget runs out has failed, a skipped test has
failed. Nothing that a suite starts outlives it: neither processes nor test hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType

from system.hosts import (
    Host,
    prepared_environment,
    remove_hosts,
    remove_orphans,
    run_prefix,
    worker_environments,
)

TREE = Path(__file__).resolve().parent.parent
PYTHON = str(TREE / ".venv/bin/python")
REPORTS = TREE / "build/reports"
MINUTE = 60
_LANES = 2


@dataclass
class Outcome:
    """What came of one suite; times are in seconds."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    times: list[tuple[float, str]] = field(default_factory=list)
    duration: float = 0.0


@dataclass(frozen=True)
class Suite:
    """A suite: where its tests are, how long they may take, how they are run.

    Neighbours with the same ``lane_group`` run two at a time.
    """

    name: str
    directory: str
    budget: float
    run: Callable[[Suite, Sequence[str]], Outcome]
    lane_group: str = ""

    @property
    def report(self) -> Path:
        return REPORTS / f"{self.name}.xml"


class OutOfTime(Exception):
    """A suite's budget ran out."""


class Sessions:
    """What the suites have started, to be ended at once when the run is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def start(self, command: Sequence[str], output: int | None) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own. Raises OutOfTime in a run which was stopped."""
        with self._lock:
            if self._stopped:
                raise OutOfTime
            process = subprocess.Popen(
                command, cwd=TREE, start_new_session=True, stdout=output, stderr=output
            )
            self._running.add(process)
            return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        end_session(process)
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            left = list(self._running)
        for process in left:
            end_session(process)


_sessions = Sessions()


def execute(suite: Suite, command: Sequence[str], budget: float) -> int:
    """Run a command of a suite in a session of its own, which ends with it. Raises OutOfTime."""
    with contextlib.ExitStack() as stack:
        process = _sessions.start(command, printer(stack, suite) if suite.lane_group else None)
        stack.callback(_sessions.end, process)
        try:
            return process.wait(budget)
        except subprocess.TimeoutExpired:
            raise OutOfTime from None


def printer(stack: contextlib.ExitStack, suite: Suite) -> int:
    """Return a descriptor whose lines are printed with the suite's name before them."""
    reader, writer = os.pipe()

    def print_lines() -> None:
        with open(reader, errors="replace") as lines:
            for line in lines:
                print(f"{suite.name}: {line}", end="", flush=True)

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    stack.callback(thread.join, 5)
    stack.callback(os.close, writer)
    return writer


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a session: politely, so that it can take its hosts down, then not."""
    for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            print(f"run: process {process.pid} goes on after {number.name}", file=sys.stderr)


def run_commands(*commands: Sequence[str]) -> Callable[[Suite, Sequence[str]], Outcome]:
    """Each command is one test."""

    def run(suite: Suite, _arguments: Sequence[str]) -> Outcome:
        outcome = Outcome()
        for command in commands:
            title = " ".join(command)
            began = time.monotonic()
            if execute(suite, [PYTHON, "-m", *command], suite.budget) == 0:
                outcome.passed += 1
            else:
                outcome.failures.append(title)
            outcome.times.append((time.monotonic() - began, title))
        return outcome

    return run


def pytest_command(suite: Suite, report: str, arguments: Sequence[str]) -> list[str]:
    below = f"{suite.directory}/"
    others = [other.directory for other in SUITES if other.directory.startswith(below)]
    # Half a line of dots would wait for its end.
    telling = ["--verbose", "--no-header"] if suite.lane_group else ["--quiet"]
    options = [*telling, f"--junitxml={report}", *(f"--ignore={other}" for other in others)]
    return [PYTHON, "-m", "pytest", suite.directory, *options, *arguments]


def run_here(suite: Suite, arguments: Sequence[str]) -> Outcome:
    """The tests run on this machine."""
    status = execute(suite, pytest_command(suite, str(suite.report), arguments), suite.budget)
    return read_report(suite, status)


def run_in_host(
    *services: str, user: str = "root", peer: bool = False, workers: bool = False
) -> Callable[[Suite, Sequence[str]], Outcome]:
    """The tests run inside one test host, in which the services have been started.

    With `peer`, PEER_VENV there names an environment with the public endpoint package; with
    `workers`, WORKER_ENVIRONMENTS the directory of tools/worker-environments.
    """

    def run(suite: Suite, arguments: Sequence[str]) -> Outcome:
        deadline = time.monotonic() + suite.budget
        binds = [TREE, (TREE / ".venv").resolve()]
        # The tree is read-only in a host.
        environment = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{TREE}/src:{TREE}/tests"}
        if peer:
            binds.append(prepared_environment("peer"))
            environment["PEER_VENV"] = str(binds[-1])
        if workers:
            binds.append(worker_environments())
            environment["WORKER_ENVIRONMENTS"] = str(binds[-1])
        with Host(suite.name, binds=binds) as host:
            if user != "root":
                host.add_user(user)
            host.start_services(*services)
            command = pytest_command(suite, "/tmp/report.xml", arguments)
            status = execute(
                suite,
                host.command(*command, user=user, directory=TREE, environment=environment),
                deadline - time.monotonic(),
            )
            host.pull(Path("/tmp/report.xml"), REPORTS / suite.name)
        (REPORTS / suite.name / "report.xml").replace(suite.report)
        return read_report(suite, status)

    return run


def only_long(
    run: Callable[[Suite, Sequence[str]], Outcome],
) -> Callable[[Suite, Sequence[str]], Outcome]:
    """Those tests of a directory which its suite leaves out."""
    return lambda suite, arguments: run(suite, ["-m", "long", *arguments])


def read_report(suite: Suite, status: int) -> Outcome:
    """Read pytest's report; skipped and expected failures count as failures."""
    outcome = Outcome()
    if not suite.report.exists():
        outcome.failures.append(f"{suite.name}: no report, pytest ended with {status}")
        return outcome
    for case in ET.parse(suite.report).iter("testcase"):
        title = f"{case.get('classname', '')}::{case.get('name', '')}".removeprefix("tests.")
        outcome.times.append((float(case.get("time", "0")), title))
        wrong = [part.tag for part in case if part.tag in ("failure", "error", "skipped")]
        if wrong:
            outcome.failures.append(f"{title} ({', '.join(wrong)})")
        else:
            outcome.passed += 1
    if status and not outcome.failures:
        outcome.failures.append(f"{suite.name}: pytest ended with {status}")
    return outcome


# All budgets together are about an hour, were there no lanes; what the suites need is well below.
SUITES = [
    Suite("lint", "", MINUTE / 4, run_commands(("ruff", "check"), ("ruff", "format", "--check"))),
    Suite("types", "", MINUTE / 2, run_commands(("mypy", "src", "tests"))),
    Suite("unit", "tests/unit", 90, run_here),
    # The longest first: the others fill the second lane.
    Suite(
        "endpoint",
        "tests/endpoint",
        13 * MINUTE,
        run_in_host("rabbitmq-server", peer=True),
        lane_group="hosts",
    ),
    Suite(
        "clusters",
        "tests/clusters",
        8 * MINUTE,
        run_in_host("rabbitmq-server", peer=True, workers=True),
        lane_group="hosts",
    ),
    Suite(
        "services",
        "tests/services",
        12 * MINUTE,
        run_in_host("rabbitmq-server", "postgresql", peer=True),
        lane_group="hosts",
    ),
    Suite(
        "engines",
        "tests/engines",
        5 * MINUTE,
        run_in_host(user="researcher", peer=True),
        lane_group="hosts",
    ),
    Suite("system", "tests/system", 13 * MINUTE, run_here),
    Suite("faults", "tests/system/faults", 7 * MINUTE, run_here),
    Suite("demo", "", 1.5 * MINUTE, run_commands(("demo",))),
]
LONG_SUITES = [
    Suite("long", "tests/long", 35 * MINUTE, run_here),
    Suite(
        "endpoint-long",
        "tests/endpoint",
        6 * MINUTE,
        only_long(run_in_host("rabbitmq-server", peer=True)),
    ),
    Suite(
        "engines-long",
        "tests/engines",
        3 * MINUTE,
        only_long(run_in_host(user="researcher", peer=True)),
    ),
    Suite(
        "clusters-long",
        "tests/clusters",
        15 * MINUTE,
        only_long(run_in_host("rabbitmq-server", peer=True, workers=True)),
    ),
    Suite(
        "services-long",
        "tests/services",
        5 * MINUTE,
        only_long(run_in_host("rabbitmq-server", "postgresql", peer=True)),
    ),
    Suite("system-long", "tests/system", 10 * MINUTE, only_long(run_here)),
]


def has_tests(suite: Suite) -> bool:
    return not suite.directory or any((TREE / suite.directory).rglob("test_*.py"))


def run_suite(suite: Suite, arguments: Sequence[str]) -> Outcome:
    print(f"\n== {suite.name} (at most {suite.budget / MINUTE:g} min)", flush=True)
    suite.report.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        outcome = suite.run(suite, arguments)
    except OutOfTime:
        outcome = Outcome(failures=[f"{suite.name}: not done after {suite.budget:.0f} s"])
    except subprocess.SubprocessError as error:
        outcome = Outcome(failures=[f"{suite.name}: {error}"])
    outcome.duration = time.monotonic() - began
    return outcome


def run_all(suites: Sequence[Suite], arguments: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
    """Run suites in order, neighbours of one group two at a time."""
    for _, neighbours in groupby(suites, key=lambda each: each.lane_group or each.name):
        try:
            yield from run_group(list(neighbours), arguments)
        finally:
            remove_hosts()


def run_group(group: Sequence[Suite], arguments: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
    with ThreadPoolExecutor(min(_LANES, len(group))) as lanes:
        try:
            running = [lanes.submit(run_suite, suite, arguments) for suite in group]
            for suite, future in zip(group, running, strict=True):
                yield suite.name, future.result()
        except BaseException:
            _sessions.stop()
            raise


def summarize(outcomes: dict[str, Outcome]) -> int:
    """Print the summary; the last line is for programs. Returns the number of failures."""
    times = sorted((time for outcome in outcomes.values() for time in outcome.times), reverse=True)
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    print("\nslowest:")
    for duration, title in times[:10]:
        print(f"  {duration:6.1f} s  {title}")
    print("\nsuite          passed  failed    time")
    for name, outcome in outcomes.items():
        counts = f"{outcome.passed:6d}  {len(outcome.failures):6d}"
        print(f"{name:<13}  {counts}  {outcome.duration:4.0f} s")
    for failure in failures:
        print(f"FAILED {failure}")
    passed = sum(outcome.passed for outcome in outcomes.values())
    print(f"{passed} passed, {len(failures)} failed", flush=True)
    return len(failures)


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    suites = [*SUITES, *LONG_SUITES]
    parser = argparse.ArgumentParser(description="run the project's test suites")
    parser.add_argument("--suites", nargs="*", default=[], choices=[s.name for s in suites])
    parser.add_argument("arguments", nargs="*", metavar="PYTEST-ARGUMENT")
    options = parser.parse_args()
    chosen = [s for s in suites if s.name in options.suites] if options.suites else SUITES
    signal.signal(signal.SIGTERM, interrupt)
    REPORTS.mkdir(parents=True, exist_ok=True)
    os.environ["TEST_HOST_PREFIX"] = run_prefix()
    os.environ["PYTHONPATH"] = str(TREE / "tests")
    outcomes = {}
    try:
        remove_orphans()
        for name, outcome in run_all([*filter(has_tests, chosen)], options.arguments):
            outcomes[name] = outcome
    except KeyboardInterrupt as why:
        print(f"\nrun: stopped ({str(why) or 'Ctrl-C'})", file=sys.stderr)
        return 130
    return 1 if summarize(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
