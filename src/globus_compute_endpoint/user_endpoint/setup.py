# SPDX-License-Identifier: Apache-2.0
"""Scripts which run before the first and after the last task."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["run_script"]

log = logging.getLogger(__name__)

_SHOWN = 2000  # characters of output in an error; all of it is in the log
_LINE = 4096  # bytes of a line without an end
_CHUNK = 65536
_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class _Interrupted(Exception):
    """A signal which stops endpoints has come."""


def run_script(option: str, script: str | None, seconds: float) -> bool:
    """Run a script in a shell, to its end; ``option`` is what the configuration calls it.

    Its output is logged line by line. What it leaves in the background goes on, if it succeeds.
    Returns False where SIGTERM, SIGQUIT or SIGINT has ended it, and should end this process.

    Raises:
        Problem: it failed, or did not end in time (CONFIGURATION).
    """
    if not script or not script.strip():
        return True
    log.info("Running %s", option)
    tail: deque[str] = deque(maxlen=100)
    try:
        with _stop_signals() as signals:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status = _follow(process, signals, option, tail, time.monotonic() + seconds)
    except TimeoutError:
        raise _failed(option, f"did not end within {seconds:g} s", tail) from None
    except _Interrupted as signalled:
        log.info("%s was cut short by %s", option, signalled)
        return False
    if status != 0:
        how = f"failed with exit status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        raise _failed(option, how, tail)
    log.info("%s has succeeded", option)
    return True


def _follow(
    process: subprocess.Popen[bytes],
    signals: int,
    option: str,
    tail: deque[str],
    deadline: float,
) -> int:
    """Log the output until the script ends, and return its status. Kills it if that fails."""
    assert process.stdout is not None
    status = None
    with process.stdout:
        try:
            for line in _lines(process.stdout.fileno(), process.pid, signals, deadline):
                log.info("%s: %s", option, line)
                tail.append(line)
            status = process.wait()
        finally:
            if status != 0:
                _kill_group(process)
    return status


def _lines(output: int, pid: int, signals: int, deadline: float) -> Iterator[str]:
    """Yield the lines of its output until it has ended.

    Raises TimeoutError at the deadline, _Interrupted at a signal.

    What a script leaves in the background may hold the output open for ever: the script's own
    end is what counts.
    """
    ended = os.pidfd_open(pid)
    rest = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            selector.register(signals, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(deadline - time.monotonic())}
                if not ready:
                    raise TimeoutError
                if signals in ready:
                    raise _Interrupted(signal.Signals(os.read(signals, 1)[0]).name)
                if output not in ready:
                    break
                if not (data := os.read(output, _CHUNK)):
                    selector.unregister(output)
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
                if len(rest) > _LINE:
                    yield rest.decode(errors="replace")
                    rest = b""
    finally:
        os.close(ended)
    if rest:
        yield rest.decode(errors="replace")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor from which the signals can be read that stop an endpoint.

    An exception from a handler could come in the middle of Popen, and lose sight of the script.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # full of signals: one is enough
            os.write(writer, bytes([number]))

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _failed(option: str, how: str, tail: deque[str]) -> Problem:
    output = "\n".join(tail).strip()[-_SHOWN:]
    return Problem(
        "SCRIPT_FAILED",
        f"{option} {how}" + (f"; it said: {output}" if output else ""),
        f"mend the script in {option}; endpoint.log has all of its output",
        ExitStatus.CONFIGURATION,
    )
