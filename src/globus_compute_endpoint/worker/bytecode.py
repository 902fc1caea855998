# SPDX-License-Identifier: Apache-2.0
"""Refuse the bytecode of another Python: it would crash the worker, or compute nonsense.

The SDK sends functions as bytecode by default, and nothing says of which Python. Its shape does:
how many parts a code object has, and from 3.11 on where opcodes keep room for their caches. What is
this Python's own is never refused.

This module travels to workers in the source of ``worker/task.py``.
"""

from __future__ import annotations

import functools
import opcode
import platform
import sys
from collections.abc import Sequence
from typing import Any

_PARTS = 18 if sys.version_info >= (3, 11) else 16
_CODE = 6  # which part has the instructions
_RESUME = {
    151: "3.11 or 3.12",
    149: "3.13",
    128: "3.14",
}  # in all code from 3.11 on, near its beginning


class OtherPython(Exception):
    """Bytecode of another minor version; the text is for the researcher."""


def watch_codes() -> None:
    """Have dill look at code objects before it makes them. Calls but the first do nothing."""
    import dill._dill as pickling

    make = pickling._create_code
    if hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def make_own(*parts: Any) -> Any:
        # Since dill 0.3.6, a table for old versions goes before the parts.
        own = parts if isinstance(parts[0], int) else parts[1:]
        if not is_of_this_python(own):
            raise OtherPython(
                f"The function, or something that it came with, is bytecode of Python"
                f" {_version_of(own)}, and this worker has Python {platform.python_version()}"
                f" ({sys.executable}). Use the same minor version at both ends: in worker_init, or"
                " where you submit. Or send functions as source text:"
                " Executor(serializer=ComputeSerializer(strategy_code=AllCodeStrategies()))."
            )
        return make(*parts)

    pickling._create_code = make_own


def is_of_this_python(parts: Sequence[Any]) -> bool:
    """Return whether these parts of a code object can be this Python's."""
    if len(parts) != _PARTS:
        return False
    caches: Any = getattr(opcode, "_inline_cache_entries", None)
    if _PARTS == 16 or caches is None:  # such parts cannot be told apart
        return True
    code, at, resumes = parts[_CODE], 0, False
    while at < len(code):
        name = opcode.opname[code[at]]
        if name == "CACHE" or name.startswith("<"):
            return False
        resumes |= name == "RESUME"
        room = 2 * (caches.get(name, 0) if isinstance(caches, dict) else caches[code[at]])
        if any(code[at + 2 : at + 2 + room]):
            return False
        at += 2 + room
    return resumes


def _version_of(parts: Sequence[Any]) -> str:
    if len(parts) < 18:
        return "3.10 or earlier"
    code = parts[_CODE]
    for at in range(0, min(len(code), 32), 2):
        if code[at] in _RESUME and code[at + 1] == 0:  # its argument: the beginning of a function
            return _RESUME[code[at]]
    return "another minor version"
