# SPDX-License-Identifier: Apache-2.0
"""Going on as another installation's user endpoint, to which a site's own PATH leads.

It may be of another version, or be the public endpoint package: it is given no more than
``_start-user-endpoint`` of either takes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["other_installation", "turn_into", "with_port"]

log = logging.getLogger(__name__)

_PROGRAM = "globus-compute-endpoint"
_STDIN = 0
_OF_PYTHON = {"PYTHONPATH", "PYTHONHOME"}  # where our modules are, not its


def other_installation(path: str | None) -> Path | None:
    """The program which ``path``, a PATH, leads to; None where that is the one which runs."""
    found = shutil.which(_PROGRAM, path=path) if path else None
    if found is None:
        return None
    program = Path(found).resolve()
    return None if program.parent == Path(sys.prefix).resolve() / "bin" else program


def turn_into(
    program: Path, name: str, handed: Mapping[str, Any], environment: Mapping[str, str]
) -> NoReturn:
    """Execute ``program`` in our place; ``handed`` is what it reads on standard input.

    ``environment`` is the site's; what Python itself would take from ours is left out.

    Raises:
        Problem: it cannot be executed (CONFIGURATION).
    """
    document = os.memfd_create("handed")
    with os.fdopen(os.dup(document), "wb") as file:
        file.write(json.dumps(handed).encode())
    os.lseek(document, 0, os.SEEK_SET)
    os.dup2(document, _STDIN)
    log.info("Going on as %s", program)
    logging.shutdown()
    ours = {key: value for key, value in os.environ.items() if key not in _OF_PYTHON}
    try:
        argv = [str(program), "_start-user-endpoint", name]
        os.execve(program, argv, {**ours, **environment})  # noqa: S606  (no shell is wanted)
    except OSError as error:
        raise Problem(
            "INSTALLATION_BROKEN",
            f"cannot execute {program}, which PATH in user_environment.yaml leads to:"
            f" {error.strerror}",
            "tell the administrator of the endpoint",
            ExitStatus.CONFIGURATION,
        ) from error


def with_port(rendered: str, port: int | None) -> str:
    """Add the manager's ``amqp_port`` to a configuration which has none of its own."""
    try:
        document = yaml.safe_load(rendered)
    except yaml.YAMLError:
        return rendered  # the other installation says what is wrong with it
    if port is None or not isinstance(document, dict) or document.get("amqp_port"):
        return rendered
    return f"{rendered.rstrip()}\namqp_port: {port}\n"
