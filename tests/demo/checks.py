# SPDX-License-Identifier: Apache-2.0
"""A cell of the demo's tables is right, or the demo ends."""

from __future__ import annotations

from collections.abc import Sequence


class Mismatch(Exception):
    """Something is not as it must be."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raises Mismatch unless `found` is what was wanted."""
    if found != wanted:
        raise Mismatch(f"{what}: {found!r}, but it must be {wanted!r}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    cells = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    first, *rest = cells
    return "\n".join([first, "  ".join("-" * width for width in widths), *rest])
