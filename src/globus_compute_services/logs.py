# SPDX-License-Identifier: Apache-2.0
"""Logging: to the journal with structured fields, or else to standard error."""

from __future__ import annotations

import logging
import os
import sys

from systemd.journal import JournalHandler

__all__ = ["set_up_logging"]


class _FieldHandler(JournalHandler):  # type: ignore[misc]  # systemd-python has no types
    """Journal entries whose upper-case ``extra`` fields are searchable text."""

    def emit(self, record: logging.LogRecord) -> None:
        for name, value in list(vars(record).items()):
            if name.isupper():
                if value is None:
                    delattr(record, name)
                else:
                    setattr(record, name, str(value))
        super().emit(record)


def set_up_logging(*, debug: bool) -> None:
    """Log to the journal if standard error leads there, so that fields are kept."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        handler = _FieldHandler(SYSLOG_IDENTIFIER="globus-compute-services")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    for chatty in ("pika", "httpx", "httpcore", "aiosqlite", "uvicorn.error", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # pika reports each refused connection with a traceback; the link says it in one line.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
