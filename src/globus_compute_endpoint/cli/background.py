# SPDX-License-Identifier: Apache-2.0
"""Running an endpoint in the background, and hearing from it how its start goes.

The endpoint is a fresh interpreter in a session of its own, not a fork: the SDK has started a
thread by the time it is known what to run. It reports over a pipe, a JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import click

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["Reporter", "start_in_background"]

_STEP_TIMEOUT = 90.0  # seconds: an engine that starts, two connections that open
_END_TIMEOUT = 30.0


class Reporter:
    """The background process's end of the pipe, which nobody may be listening to any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)

    def running(self, script: str | None) -> None:
        """Tell of a script of the user's, which takes as long as it takes; None: it is done."""
        self._tell({"running": script})

    def trouble(self, what: str) -> None:
        """Tell what is in the way of being ready, where it may pass by itself."""
        self._tell({"trouble": what})

    def ready(self) -> None:
        """Tell that tasks are taken from now on."""
        self._tell({"ready": True})

    def failed(self, problem: Problem) -> None:
        """Tell why it came to nothing."""
        self._tell(
            {
                "code": problem.code,
                "message": problem.message,
                "hint": problem.hint,
                "exit_status": int(problem.exit_status),
            }
        )

    def _tell(self, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, json.dumps(what).encode() + b"\n")


def start_in_background(command: list[str], document: bytes, log: Path) -> None:
    """Run ``command``, which reads ``document``, and return once it is ready.

    ``command`` gets the number of the report's descriptor appended. What it prints goes to ``log``.

    Raises:
        Problem: what the process reports, or that it ended without a word (INTERNAL).
    """
    theirs, ours = -1, -1
    try:
        ours, theirs = os.pipe()
        process = _spawn([*command, str(theirs)], document, log, theirs)
    except OSError as error:
        os.close(ours)
        raise Problem(
            "CANNOT_START",
            f"cannot start a process in the background: {error.strerror}",
            f"check the limits of this account, and that {log} can be written",
            ExitStatus.TEMPORARY,
        ) from error
    finally:
        os.close(theirs)
    try:
        with os.fdopen(ours, "rb", buffering=0) as reports:
            _wait_until_ready(reports.fileno(), log)
    except Problem:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT)  # so that it can be tried again at once
        raise
    except BaseException:  # Ctrl-C
        _end(process)
        raise


def _spawn(command: list[str], document: bytes, log: Path, report: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[report],
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it will tell why
        pipe.write(document)
    return process


def _wait_until_ready(reports: int, log: Path) -> None:
    deadline: float | None = time.monotonic() + _STEP_TIMEOUT
    pending = b""
    while (line := _next_line(reports, pending, deadline)) is not None:
        report, pending = line
        if "running" in report:
            script = report["running"]
            deadline = None if script else time.monotonic() + _STEP_TIMEOUT
            if script:
                click.echo(f"Running {script} ...", err=True)
        elif "trouble" in report:
            click.echo(report["trouble"], err=True)
        elif "ready" in report:
            return
        else:
            raise _problem(report)
    click.echo(
        f"It is not connected yet, and goes on trying in the background; see {log}", err=True
    )


def _next_line(
    reports: int, pending: bytes, deadline: float | None
) -> tuple[dict[str, Any], bytes] | None:
    """Return the next report and what came behind it; None where there is none in time."""
    poll = select.poll()
    poll.register(reports, select.POLLIN)
    while b"\n" not in pending:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(patience):
            return None
        data = os.read(reports, 65536)
        if not data:
            raise Problem(
                "ENDED_AT_ONCE",
                "the endpoint's process ended before it was ready",
                "see the end of its endpoint.log",
            )
        pending += data
    line, _, rest = pending.partition(b"\n")
    return json.loads(line), rest


def _problem(report: dict[str, Any]) -> Problem:
    status = ExitStatus(report["exit_status"])
    return Problem(report["code"], report["message"], report["hint"], status)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT)
            return
    click.echo(f"Process {process.pid} does not end.", err=True)
