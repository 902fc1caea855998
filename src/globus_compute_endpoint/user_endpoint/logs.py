# SPDX-License-Identifier: Apache-2.0
"""Logging of a user endpoint: to its ``endpoint.log``, and to where standard error goes."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path

from globus_compute_endpoint.problem import cannot_write
from globus_compute_endpoint.user_endpoint.log_file import LogFile

__all__ = ["log_to", "log_to_stderr", "quiet_libraries"]

_FORMAT = (
    "%(asctime)s %(levelname)s %(processName)s-%(process)d %(threadName)s-%(thread)d"
    " %(name)s:%(lineno)d %(funcName)s %(message)s"
)


def log_to(path: Path, endpoint_id: str, *, debug: bool) -> None:
    """Log to a file from here on.

    Raises:
        Problem: it cannot be written (CANNOT_CREATE).
    """
    try:
        handler = LogFile(path, f"========== Endpoint begins: {endpoint_id}\n")
    except OSError as error:
        raise cannot_write(path, error) from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    for each in root.handlers:
        each.addFilter(partial(_name_endpoint, endpoint_id))
        if each is not handler:
            each.addFilter(_Moderation(path))
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    quiet_libraries(debug=debug)


class _Moderation:
    """Lets no more lines about ordinary tasks pass than journald takes of one unit.

    Above that (10 000 in 30 s, by default) it drops whatever comes, errors too.
    """

    _PERIOD = 30.0
    _BURST = 6000

    def __init__(self, complete: Path) -> None:
        self._complete = complete
        self._since = time.monotonic()
        self._count = 0

    def __call__(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.INFO or "GC_TASK_ID" not in record.__dict__:
            return True
        self._count += 1
        if self._count < self._BURST:
            return True
        now = time.monotonic()
        if now - self._since > self._PERIOD:
            self._since, self._count = now, 0
            return True
        if self._count == self._BURST:
            record.msg = f"{record.msg} (too many tasks: for a while only in {self._complete})"
            return True
        return False


def _name_endpoint(endpoint_id: str, record: logging.LogRecord) -> bool:
    """Give each record the field by which the journal finds all lines of an endpoint."""
    record.__dict__.setdefault("GC_ENDPOINT_ID", endpoint_id)
    return True


def quiet_libraries(*, debug: bool) -> None:
    """Leave out what libraries say of matters which we report ourselves."""
    if debug:
        return
    for name in ("pika", "parsl", "globus_sdk", "globus_compute_sdk", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "pika" else logging.WARNING)


def log_to_stderr() -> None:
    """Log to standard error, plainly: systemd and terminals add the time themselves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
