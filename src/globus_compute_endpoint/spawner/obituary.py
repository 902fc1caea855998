# SPDX-License-Identifier: Apache-2.0
"""How children ended: their parent alone knows, which may itself be restarted."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

__all__ = ["Obituary"]

log = logging.getLogger(__name__)

_REMEMBERED = 1024
_Entries = list[tuple[UUID, int, int]]
_ENTRIES: TypeAdapter[_Entries] = TypeAdapter(_Entries)


class Obituary:
    """The last children by id, pid and wait status, in a file of the boot's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: deque[tuple[UUID, int, int]] = deque(_read(path), _REMEMBERED)

    def add(self, endpoint_id: UUID, pid: int, wait_status: int) -> None:
        """A child has ended."""
        self._entries.append((endpoint_id, pid, wait_status))
        self._write()

    def forget(self, endpoint_id: UUID) -> None:
        """A child of that id is born: from now on, the last one that ended is not the last."""
        others = [entry for entry in self._entries if entry[0] != endpoint_id]
        if len(others) < len(self._entries):
            self._entries = deque(others, _REMEMBERED)
            self._write()

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_bytes(_ENTRIES.dump_json(list(self._entries)))
            temporary.replace(self._path)
        except OSError as error:  # it matters to a successor alone
            log.warning("cannot write %s: %s", self._path, error.strerror)

    def of(self, endpoint_id: UUID, pid: int) -> int | None:
        """That child's wait status; None where it is not known."""
        return self._last(lambda entry: entry[:2] == (endpoint_id, pid))

    def last_of(self, endpoint_id: UUID) -> int | None:
        """The wait status of the last child with an id; None where that is not known."""
        return self._last(lambda entry: entry[0] == endpoint_id)

    def _last(self, fits: Callable[[tuple[UUID, int, int]], bool]) -> int | None:
        return next((entry[2] for entry in reversed(self._entries) if fits(entry)), None)


def _read(path: Path) -> _Entries:
    try:
        return _ENTRIES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        log.warning("%s does not tell how children ended: %s", path, type(error).__name__)
        return []
