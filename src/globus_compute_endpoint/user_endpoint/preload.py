# SPDX-License-Identifier: Apache-2.0
"""Import what every user endpoint needs, once, in the process which they are forked from."""

from __future__ import annotations

import importlib

__all__ = ["preload"]

_NEEDED = (
    "globus_compute_sdk.serialize",
    "globus_compute_endpoint.user_endpoint.launch",
    "globus_compute_endpoint.engines.globus_compute",
    "jinja2.ext",
    "encodings.idna",
    "pika.adapters.asyncio_connection",
    "parsl.executors.high_throughput.executor",
    "parsl.jobs.job_status_poller",
    "parsl.launchers",
    "parsl.providers",
)


def preload() -> None:
    """Import it. Opens nothing, and starts no thread but the SDK's own."""
    for name in _NEEDED:
        importlib.import_module(name)
