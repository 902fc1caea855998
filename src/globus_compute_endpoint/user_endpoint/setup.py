# SPDX-License-Identifier: Apache-2.0
"""Scripts which run before the first and after the last task."""

from __future__ import annotations

import logging
import subprocess

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["run_script"]

log = logging.getLogger(__name__)

_TIMEOUT = 3600  # seconds: building an environment takes a while
_SHOWN = 2000


def run_script(option: str, script: str | None) -> None:
    """Run a script in a shell, to its end; ``option`` is what the configuration calls it.

    Raises:
        Problem: it failed, or did not end (CONFIGURATION).
    """
    if not script or not script.strip():
        return
    log.info("Running %s", option)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(option, f"did not end within {_TIMEOUT} s", error.output) from error
    if done.returncode != 0:
        raise _failed(option, f"failed with exit status {done.returncode}", done.stdout)
    log.info("%s has succeeded: %s", option, done.stdout[-_SHOWN:])


def _failed(option: str, how: str, output: str | bytes | None) -> Problem:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    tail = text.strip()[-_SHOWN:]
    return Problem(
        "SCRIPT_FAILED",
        f"{option} {how}" + (f"; it said: {tail}" if tail else ""),
        f"mend the script in {option}",
        ExitStatus.CONFIGURATION,
    )
