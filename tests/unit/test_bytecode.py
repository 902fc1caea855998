# SPDX-License-Identifier: Apache-2.0
"""Telling the bytecode of another Python from one's own."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from typing import Any

import dill
import pytest

from globus_compute_endpoint.worker.bytecode import OtherPython, is_of_this_python, watch_codes

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


# of `lambda x: x.y + 1`: what Python 3.12, 3.13 and 3.10 make of it
OTHERS = {
    "3.11 or 3.12": "97007c006a0000000000000000000000000000000000000064017a0000005300",
    "3.13": "95005500520000000000000000000000000000000000000053012d0000002400",
}


def test_anothers_is_refused_in_words():
    watch_codes()
    fields = dict(zip(FIELDS, parts_of((lambda x: x.y + 1).__code__), strict=True))
    for version, code in OTHERS.items():
        parts = tuple((fields | {"code": bytes.fromhex(code)}).values())
        with pytest.raises(OtherPython, match=f"bytecode of Python {version}, and this worker"):
            dill._dill._create_code(b"", *parts)
    shorter = [part for name, part in fields.items() if name not in ("qualname", "exceptiontable")]
    assert not is_of_this_python(shorter)
    with pytest.raises(OtherPython, match=r"bytecode of Python 3\.10 or earlier"):
        dill._dill._create_code(*shorter)


def test_results_with_functions_travel_as_before():
    watch_codes()
    captured = 2
    assert dill.loads(dill.dumps(lambda x: x + captured))(1) == 3
