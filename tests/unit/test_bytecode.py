# SPDX-License-Identifier: Apache-2.0
"""Telling the bytecode of another Python from one's own."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from typing import Any

import pytest

from globus_compute_endpoint.worker.bytecode import is_of_this_python

MODULES = (
    "asyncio.tasks",
    "argparse",
    "dataclasses",
    "functools",
    "inspect",
    "typing",
    "json.decoder",
)
FIELDS = (
    *("argcount", "posonlyargcount", "kwonlyargcount", "nlocals", "stacksize", "flags", "code"),
    *("consts", "names", "varnames", "filename", "name", "qualname", "firstlineno", "linetable"),
    *("exceptiontable", "freevars", "cellvars"),
)


def parts_of(code: types.CodeType) -> tuple[Any, ...]:
    return tuple(getattr(code, f"co_{name}") for name in FIELDS)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from codes(each)


@pytest.mark.parametrize("name", MODULES)
def test_ones_own_is_never_refused(name: str):
    source = importlib.import_module(name).__spec__
    assert source is not None and source.loader is not None
    code = source.loader.get_code(name)  # type: ignore[attr-defined]  # a SourceFileLoader
    found = list(codes(code))
    assert len(found) > 10
    assert all(is_of_this_python(parts_of(each)) for each in found)
