# SPDX-License-Identifier: Apache-2.0
"""Start records: what it takes to start a user endpoint again, on disk until it has ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from globus_compute_endpoint.host.durable import replace_file, sync_directory
from globus_compute_endpoint.manager.protocol import Start, pack
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["StartRecord", "StartRecords"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartRecord:
    """A start command as the gateway handed it in, its blob unopened.

    ``uid`` and ``boot``: as whom, and since which boot, a user endpoint was started from it.
    """

    start: Start
    blob: bytes
    uid: int | None = None
    boot: str | None = None


class _Written(Start):
    """A command and what came of it; versions without a journal wrote the command alone."""

    uid: int | None = None
    boot: str | None = None


class StartRecords:
    """One file a user endpoint, 0600, replaced durably."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, record: StartRecord) -> None:
        """Returns once it is on disk; raises Problem where it cannot be."""
        path = self._path(record.start.endpoint_id)
        try:
            replace_file(path, pack(_written(record), record.blob), 0o600)
        except OSError as error:
            raise Problem(
                "START_RECORD_NOT_WRITTEN",
                f"cannot write {path}: {error.strerror}",
                "see that the disk is neither full nor read-only",
                ExitStatus.TEMPORARY,
            ) from error

    def read(self, endpoint_id: UUID) -> StartRecord | None:
        """The record; None where there is none, or none that makes sense. Raises OSError."""
        try:
            head, _, blob = self._path(endpoint_id).read_bytes().partition(b"\n")
            written = _Written.model_validate_json(head)
        except (FileNotFoundError, ValidationError):
            return None
        start = Start.model_validate(written.model_dump(exclude={"uid", "boot"}))
        return StartRecord(start, blob, written.uid, written.boot)

    def remove(self, endpoint_id: UUID) -> None:
        """Forget it: that user endpoint has ended."""
        self._path(endpoint_id).unlink(missing_ok=True)

    def give_up(self, endpoint_id: UUID) -> None:
        """Forget it, but for this: whatever it has left, the services have failed its tasks."""
        try:
            self._answered(endpoint_id).touch(mode=0o600)
            sync_directory(self._directory)
        except OSError as error:
            log.error("tasks of %s may run, though they have failed: %s", endpoint_id, error)
        self.remove(endpoint_id)

    def was_given_up(self, endpoint_id: UUID) -> bool:
        """Whether :meth:`give_up` was the last that happened to it."""
        return self._answered(endpoint_id).exists()

    def take_up_again(self, endpoint_id: UUID) -> None:
        """It was started, and told."""
        self._answered(endpoint_id).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[UUID]:
        for path in sorted(self._directory.iterdir()):
            with contextlib.suppress(ValueError):
                yield UUID(path.name)

    def _answered(self, endpoint_id: UUID) -> Path:
        return self._directory / f"{endpoint_id}.answered"

    def _path(self, endpoint_id: UUID) -> Path:
        return self._directory / str(endpoint_id)


def _written(record: StartRecord) -> _Written:
    fields = record.start.model_dump()
    return _Written(**fields, uid=record.uid, boot=record.boot)
