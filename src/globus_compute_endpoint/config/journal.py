# SPDX-License-Identifier: Apache-2.0
"""How much a user endpoint takes charge of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, ConfigDict, Field

__all__ = ["JournalConfig"]


class JournalConfig(BaseModel):
    """The limits of the task journal. At either, tasks stay with the broker until there is room.

    ``max_tasks``: how many may be in it which are not done. ``max_size``: their bytes, of bodies
    of tasks or of results.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tasks: Annotated[int, Field(ge=1)] = 50_000
    max_size: Annotated[ByteSize, Field(ge=1)] = ByteSize(2**30)
