# SPDX-License-Identifier: Apache-2.0
"""``endpoint.json``: the id which the web services gave an endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.host.durable import replace_file
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write

__all__ = ["read_endpoint_id", "write_endpoint_id"]


def read_endpoint_id(path: Path) -> UUID | None:
    """Return the id; None before the first registration.

    Raises:
        Problem: the file is there, but does not tell (CONFIGURATION).
    """
    try:
        return UUID(json.loads(path.read_text())["endpoint_id"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(
            "ENDPOINT_JSON_UNREADABLE",
            f"cannot read the endpoint's id from {path}: {error}",
            'it must hold {"endpoint_id": "<UUID>"}; remove it to register anew',
            ExitStatus.CONFIGURATION,
        ) from error


def write_endpoint_id(path: Path, endpoint_id: UUID) -> None:
    """Write the file, whole or not at all; durable on return.

    An id which a power cut takes would leave its tasks to nobody.

    Raises:
        Problem: it cannot be written (CANNOT_CREATE).
    """
    content = json.dumps({"endpoint_id": str(endpoint_id)}) + "\n"
    try:
        replace_file(path, content.encode())
    except OSError as error:
        raise cannot_write(path, error) from error
