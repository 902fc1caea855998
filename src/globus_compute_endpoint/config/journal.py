# SPDX-License-Identifier: Apache-2.0
"""How much a user endpoint takes charge of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator

__all__ = ["JournalConfig"]


class JournalConfig(BaseModel):
    """The limits of the task journal. At either, tasks stay with the broker until there is room.

    ``max_tasks``: how many may be in it which are not done. ``max_size``: their bytes, of bodies
    of tasks or of results.

    ``directory``: where the journal of a single user's endpoint is, in a directory of its own, if
    not beside its configuration; for homes on a network file system. ``allow_volatile``: it may
    be on a file system in memory, and be lost with a power loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tasks: Annotated[int, Field(ge=1)] = 50_000
    max_size: Annotated[ByteSize, Field(ge=1)] = ByteSize(2**30)
    directory: Path | None = None
    allow_volatile: bool = False

    @field_validator("directory")
    @classmethod
    def _absolute(cls, directory: Path | None) -> Path | None:
        if directory is not None and not directory.is_absolute():
            raise ValueError("must be an absolute path")
        return directory
