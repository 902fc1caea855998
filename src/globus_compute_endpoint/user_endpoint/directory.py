# SPDX-License-Identifier: Apache-2.0
"""The directory of one endpoint in ``~/.globus_compute``."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID

from globus_compute_sdk.sdk.compute_dir import get_compute_dir

from globus_compute_endpoint.endpoint_json import read_endpoint_id, write_endpoint_id
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write

__all__ = ["EndpointDirectory"]


log = logging.getLogger(__name__)

# Lustre mounted without flock, NFS without its lock service: state.json has to do.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class EndpointDirectory:
    """Where an endpoint of one user keeps its files."""

    path: Path

    @classmethod
    def of(cls, name: str) -> EndpointDirectory:
        """Return the directory of the endpoint called ``name``, which need not exist."""
        return cls(get_compute_dir() / name)

    @property
    def config(self) -> Path:
        """``config.yaml``."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """``endpoint.log``."""
        return self.path / "endpoint.log"

    @property
    def state_file(self) -> Path:
        """``state.json``: which instance runs, or ran last."""
        return self.path / "state.json"

    def metadata(self) -> dict[str, str]:
        """Return the files which the web services show to the endpoint's owner."""
        files = {
            "endpoint_config": "config.yaml",
            "user_config_template": "user_config_template.yaml.j2",
            "user_config_schema": "user_config_schema.json",
        }
        return {
            key: (self.path / name).read_text(encoding="utf-8", errors="replace")
            for key, name in files.items()
            if (self.path / name).is_file()
        }

    def make(self) -> None:
        """Create the directory, readable by its owner only.

        Raises:
            Problem: that is not possible (CANNOT_CREATE).
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def endpoint_id(self) -> UUID | None:
        """Return the id of the registered endpoint, or None.

        Raises:
            Problem: ``endpoint.json`` is there, but not readable (CONFIGURATION).
        """
        return read_endpoint_id(self.path / "endpoint.json")

    def remember(self, endpoint_id: UUID) -> None:
        """Write ``endpoint.json``, whole or not at all."""
        write_endpoint_id(self.path / "endpoint.json", endpoint_id)

    def lock_file(self, where: Path | None = None) -> Path:
        """Return the path of the lock, which holds the pid of the instance."""
        return (where or self.path) / "daemon.pid"

    def lock(self, where: Path | None = None) -> IO[str]:
        """Take the lock which keeps a second instance away; the open file holds it.

        ``where`` is a directory on a local disk, if there is one: not all shared file systems
        lock.

        Raises:
            Problem: another instance runs (CANNOT_CREATE).
        """
        held = _open(self.lock_file(where))
        if not _try_lock(held):
            held.seek(0)
            pid = held.read().strip() or "unknown"
            held.close()
            raise Problem(
                "ALREADY_RUNNING",
                f"another instance of this endpoint is running (pid {pid})",
                "stop it first",
                ExitStatus.CANNOT_CREATE,
            )
        held.truncate(0)
        held.write(f"{os.getpid()}\n")
        held.flush()
        return held

    def lock_start(self) -> IO[str]:
        """Take the lock which keeps a second start away until this one has come to something.

        Raises:
            Problem: another start is under way (CANNOT_CREATE).
        """
        held = _open(self.path / "start.lock")
        if not _try_lock(held):
            held.close()
            raise Problem(
                "STARTING_ALREADY",
                f"another start of the endpoint {self.path.name} is under way",
                "wait for it: globus-compute-endpoint list tells how it is",
                ExitStatus.CANNOT_CREATE,
            )
        return held


def _try_lock(held: IO[str]) -> bool:
    """Lock an open file; False where another process has done so."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise cannot_write(Path(held.name), error) from error
        log.warning("%s: locks do not work here (%s)", held.name, error.strerror)
    return True


def _open(path: Path) -> IO[str]:
    try:
        return path.open("a+")
    except OSError as error:
        raise cannot_write(path, error) from error
