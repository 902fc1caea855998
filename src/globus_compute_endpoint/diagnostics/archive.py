# SPDX-License-Identifier: Apache-2.0
"""The archive that is handed to whoever helps: readable by its owner only."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["write_archive"]


def write_archive(path: Path, members: Iterable[tuple[str, str]]) -> None:
    """Write names and texts into a new ``.tar.gz`` at ``path``; half a one is not left behind.

    Raises:
        Problem: it cannot be written, or is there already (CANNOT_CREATE).
    """
    top = path.name.removesuffix(".tar.gz").removesuffix(".tgz")
    if top == path.name:  # which could not be made beside the archive
        top = "globus-compute-diagnostic"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for name, text in members:
                data = text.encode(errors="replace")
                member = tarfile.TarInfo(f"{top}/{name}")
                member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(data))
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise


def _cannot_write(path: Path, error: OSError) -> Problem:
    return Problem(
        "CANNOT_WRITE",
        f"cannot write {path}: {error.strerror}",
        "choose another place with --output",
        ExitStatus.CANNOT_CREATE,
    )
