# SPDX-License-Identifier: Apache-2.0
"""Which process is which user endpoint: written down before it begins, for the next manager.

The directory may be on a file system which several machines share: a record counts on its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from globus_compute_endpoint.host.processes import (
    ProcessIdentity,
    open_process,
    this_machine,
)
from globus_compute_endpoint.problem import Problem

__all__ = ["ProcessRecord", "ProcessRecords", "records_directory"]


def records_directory(endpoint: Path) -> Path:
    """Where the manager in the directory ``endpoint`` keeps what it knows of user endpoints."""
    return endpoint / "user_endpoints"


class ProcessRecord(BaseModel):
    """A process of one boot of one machine, its scope if it has one, and where it listens.

    ``address`` is the name of an abstract socket; see unix(7). ``instance`` marks the environment
    of all that it starts.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    machine_id: str
    host: str
    boot_id: str
    pid: PositiveInt
    start_time: int
    scope: str | None = None
    address: str | None = None
    instance: UUID | None = None

    @classmethod
    def of(
        cls, process: ProcessIdentity, scope: str | None, address: str, instance: UUID
    ) -> ProcessRecord:
        """A process of this machine."""
        machine = this_machine()
        return cls(
            machine_id=machine.machine_id,
            host=machine.host,
            boot_id=machine.boot_id,
            pid=process.pid,
            start_time=process.start_time,
            scope=scope,
            address=address,
            instance=instance,
        )

    def is_of_this_machine(self) -> bool:
        """Whether that process would be seen from here."""
        machine = this_machine()
        return (self.machine_id, self.host) == (machine.machine_id, machine.host)

    def is_of_this_boot(self) -> bool:
        """Whether this machine has not been restarted since."""
        return self.is_of_this_machine() and self.boot_id == this_machine().boot_id

    def open(self) -> int | None:
        """A pidfd, which the caller closes; None where the process has ended."""
        if not self.is_of_this_boot():
            return None
        with open_process(ProcessIdentity(self.pid, self.start_time)) as pidfd:
            return None if pidfd is None else os.dup(pidfd)


class ProcessRecords:
    """One file a user endpoint, beside its start record."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, endpoint_id: UUID, record: ProcessRecord) -> None:
        """Replace the record; raises Problem where it cannot be written."""
        path = self._path(endpoint_id)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_text(record.model_dump_json() + "\n")
            temporary.replace(path)
        except OSError as error:
            raise Problem(
                "PROCESS_RECORD_NOT_WRITTEN",
                f"cannot write {path}: {error.strerror}",
                "see that the disk is neither full nor read-only",
            ) from error

    def read(self, endpoint_id: UUID) -> ProcessRecord | None:
        """The record; None where there is none, or none that makes sense."""
        try:
            return ProcessRecord.model_validate_json(self._path(endpoint_id).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def remove(self, endpoint_id: UUID) -> None:
        """Forget it: that process has ended."""
        self._path(endpoint_id).unlink(missing_ok=True)

    def _path(self, endpoint_id: UUID) -> Path:
        return self._directory / f"{endpoint_id}.json"
