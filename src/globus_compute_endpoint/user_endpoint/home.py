# SPDX-License-Identifier: Apache-2.0
"""The home directory, which on clusters is on a file server that may be away for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from globus_compute_endpoint.host.patience import within
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["does_not_answer", "reach_home"]

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_PATIENCE = 90.0  # seconds: as long as another server takes to stand in for one that died
_SLOW = 3.0


def reach_home(function: Callable[[], Value], seconds: float = _PATIENCE) -> Value:
    """Call what reads or writes in the home directory; not for the event loop.

    Raises:
        Problem: the home directory does not answer for so many seconds (TEMPORARY).
    """
    home = Path.home()

    def tell() -> None:
        log.warning("Waiting for the home directory %s, which does not answer", home)

    try:
        return within(seconds, function, slow=_SLOW, on_slow=tell)
    except TimeoutError:
        raise does_not_answer(home, seconds) from None


def does_not_answer(directory: Path, seconds: float) -> Problem:
    """Return the problem of a directory which is away."""
    return Problem(
        "HOME_AWAY",
        f"{directory} has not answered for {seconds:g} s",
        "the file server of the home directory may be down: try again when it is back",
        ExitStatus.TEMPORARY,
    )
