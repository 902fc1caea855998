# SPDX-License-Identifier: Apache-2.0
"""The home directory, which on clusters is on a file server that may be away for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from globus_compute_endpoint.host.patience import within
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["reach_home"]

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
        raise Problem(
            "HOME_AWAY",
            f"the home directory {home} has not answered for {seconds:g} s",
            "its file server may be down: try again when it is back",
            ExitStatus.TEMPORARY,
        ) from None
