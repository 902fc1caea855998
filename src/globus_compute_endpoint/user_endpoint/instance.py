# SPDX-License-Identifier: Apache-2.0
"""Which instance of a single user's endpoint runs where: ``state.json`` in its directory.

The home directory may be shared by several machines, so the file names the machine, its boot, and
the process with its start time. A lock is taken too, which keeps two of one machine apart.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from globus_compute_endpoint.host.patience import within
from globus_compute_endpoint.host.processes import (
    ProcessIdentity,
    open_process,
    this_machine,
)
from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.leftovers import INSTANCE_MARK, end_leftovers

__all__ = [
    "EndpointState",
    "Instance",
    "InstanceRecord",
    "InstanceStatus",
    "instance_status",
    "note_stopped",
    "running_instance",
]

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for a home which is away


class EndpointState(StrEnum):
    """What ``list`` says of an endpoint."""

    INITIALIZED = "Initialized"
    RUNNING = "Running"
    STOPPED = "Stopped"
    DISCONNECTED = "Disconnected"


class InstanceRecord(BaseModel):
    """What ``state.json`` holds. ``pid`` and ``start_time`` count on the machine named."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: Literal["running", "stopped"]
    instance: uuid.UUID
    host: str
    machine_id: str
    boot_id: str
    pid: PositiveInt
    start_time: int
    since: datetime

    @property
    def process(self) -> ProcessIdentity:
        """The process that serves, or served."""
        return ProcessIdentity(self.pid, self.start_time)

    @property
    def status_address(self) -> str:
        """The abstract address where it tells how it is."""
        return f"globus-compute-status-{self.instance}"

    def is_of_this_machine(self) -> bool:
        """Whether that process would be seen from here."""
        machine = this_machine()
        return (self.machine_id, self.host) == (machine.machine_id, machine.host)

    def is_alive(self) -> bool:
        """Whether that process runs on this machine, since the boot it was started in."""
        if self.boot_id != this_machine().boot_id:
            return False
        with open_process(self.process) as pidfd:
            return pidfd is not None


@dataclass(frozen=True)
class InstanceStatus:
    """An endpoint's state, and where from that is known."""

    state: EndpointState
    record: InstanceRecord | None = None

    @property
    def elsewhere(self) -> str | None:
        """The other machine on which it runs, or ran until something happened there."""
        record = self.record
        if record is None or record.state == "stopped" or record.is_of_this_machine():
            return None
        return record.host

    def refuse_elsewhere(self, name: str, verb: str) -> None:
        """Raise Problem where the endpoint is another machine's."""
        if host := self.elsewhere:
            raise Problem(
                "OF_ANOTHER_HOST",
                f"the endpoint {name} runs on {host}, as far as is known here",
                f"{verb} it there; or, if {host} is gone for good, use --take-over",
                ExitStatus.UNAVAILABLE,
            )


def instance_status(directory: EndpointDirectory) -> InstanceStatus:
    """Find out an endpoint's state."""
    try:
        record = _read(directory)
    except (OSError, ValueError) as error:
        log.warning("%s does not tell: %s", directory.state_file, error)
        return InstanceStatus(EndpointState.DISCONNECTED)
    if record is None:
        return InstanceStatus(EndpointState.INITIALIZED)
    if record.state == "stopped":
        return InstanceStatus(EndpointState.STOPPED, record)
    # Of another machine's no more is known than what it wrote down itself.
    runs = record.is_alive() if record.is_of_this_machine() else True
    return InstanceStatus(EndpointState.RUNNING if runs else EndpointState.DISCONNECTED, record)


class Instance:
    """The running instance which this process is.

    ``interruption``: why the one before it ended; None where that was in order.
    """

    def __init__(
        self, directory: EndpointDirectory, record: InstanceRecord, interruption: str | None
    ) -> None:
        self._directory = directory
        self._record = record
        self.interruption = interruption

    @property
    def status_address(self) -> str:
        """Where this process is to tell how it is."""
        return self._record.status_address

    def is_ours(self) -> bool:
        """Whether nobody else has taken the endpoint over meanwhile, on whichever machine."""
        try:
            current = _read(self._directory)
        except (OSError, ValueError):  # a file system that is away takes nothing over
            return True
        return current is None or current == self._record

    def note_end(self) -> None:
        """Write down that it has ended in order, unless it is another's by now."""
        if self.is_ours():
            _write(self._directory, _stopped(self._record))


@contextlib.contextmanager
def running_instance(
    name: str, directory: EndpointDirectory, *, take_over: bool = False
) -> Iterator[Instance]:
    """Be the endpoint's one instance; what an earlier one has left behind is ended first.

    Left without an exception, the endpoint counts as stopped; otherwise as disconnected.

    Raises:
        Problem: another instance runs (CANNOT_CREATE), or on another machine (UNAVAILABLE).
    """
    earlier = instance_status(directory)
    if not take_over:
        earlier.refuse_elsewhere(name, "stop")
    with directory.lock():
        if earlier.state is EndpointState.DISCONNECTED and earlier.record is not None:
            end_leftovers(earlier.record.instance, earlier.record.pid)
        record = _own_record()
        # Whatever is started from here on inherits it: see end_leftovers.
        os.environ[INSTANCE_MARK] = str(record.instance)
        _write(directory, record)
        instance = Instance(directory, record, _interruption(earlier))
        yield instance
        try:
            within(_PATIENCE, instance.note_end)
        except TimeoutError:  # it counts as disconnected
            log.warning("%s does not answer: that we end is not noted", directory.state_file)


def _interruption(earlier: InstanceStatus) -> str | None:
    if earlier.state in (EndpointState.INITIALIZED, EndpointState.STOPPED):
        return None
    if earlier.elsewhere:
        return f"it was taken over from {earlier.elsewhere}"
    if earlier.record and earlier.record.boot_id != this_machine().boot_id:
        return "the host was restarted"
    return "its process was killed, or ended without a word"


def note_stopped(directory: EndpointDirectory, record: InstanceRecord) -> None:
    """Write down that the instance of ``record`` is not to be reckoned with any more."""
    _write(directory, _stopped(record))


def _own_record() -> InstanceRecord:
    machine, process = this_machine(), ProcessIdentity.own()
    return InstanceRecord(
        state="running",
        instance=uuid.uuid4(),
        host=machine.host,
        machine_id=machine.machine_id,
        boot_id=machine.boot_id,
        pid=process.pid,
        start_time=process.start_time,
        since=datetime.now(UTC),
    )


def _stopped(record: InstanceRecord) -> InstanceRecord:
    return record.model_copy(update={"state": "stopped", "since": datetime.now(UTC)})


def _read(directory: EndpointDirectory) -> InstanceRecord | None:
    """Read the record, if there is one; raises ValueError where it is garbled."""
    try:
        return InstanceRecord.model_validate_json(directory.state_file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} fields are missing or wrong") from error


def _write(directory: EndpointDirectory, record: InstanceRecord) -> None:
    path = directory.state_file
    new = Path(f"{path}.{os.getpid()}.new")
    try:
        new.write_text(record.model_dump_json(indent=2) + "\n")
        new.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
