# SPDX-License-Identifier: Apache-2.0
"""How commands show results: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from texttable import Texttable

__all__ = ["is_terminal", "print_json", "print_table"]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with ruled lines, as wide as its contents."""
    table = Texttable(max_width=0)
    table.set_cols_dtype(["t"] * len(columns))
    table.header(list(columns))
    table.add_rows(([str(cell) for cell in row] for row in rows), header=False)
    click.echo(table.draw())


def print_json(value: Any) -> None:
    """Print one JSON document; what JSON does not know is shown as its text."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def is_terminal() -> bool:
    """Whether someone sits there who can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()
