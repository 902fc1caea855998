# SPDX-License-Identifier: Apache-2.0
"""Sending our worker code along with a task, to workers which have none of it.

HTEX imports a function by name and calls it with the task's buffer. ``builtins.eval`` exists
everywhere, and the buffer is then an expression of ours: it makes a module of the source that
comes along, once per worker process, and runs the task in it. Source, not bytecode, since
workers may run another Python.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from parsl.executors import high_throughput
from parsl.version import VERSION as PARSL_VERSION

from globus_compute_endpoint.worker import (
    bytecode,
    dispatch,
    leftovers,
    nodes,
    pool,
    pool_entry,
    task,
)

__all__ = ["UNFIT", "payload", "pool_command", "pool_program"]

#: What a block writes on standard error where none of its kind could run a task, before the reason.
UNFIT = "The worker environment does not fit:"

_AMONG_THEM = re.compile(
    r"^from (__future__|globus_compute_endpoint\.worker\.\w+) .*\n", re.MULTILINE
)


def _joined(*modules: ModuleType) -> str:
    """Return the source of modules as that of one: none of them is there to be imported."""
    texts = [_AMONG_THEM.sub("", Path(str(each.__file__)).read_text()) for each in modules]
    return "\n".join(["from __future__ import annotations", *texts])


_TEXT = _joined(bytecode, leftovers, task).encode()
_SOURCE = zlib.compress(_TEXT, 9)
_NAME = f"globus_compute_task_{hashlib.sha256(_TEXT).hexdigest()[:12]}"

_EXPRESSION = b"""
(lambda module: (
    hasattr(module, 'execute') or exec(
        compile(__import__('zlib').decompress(source), name, 'exec'), module.__dict__),
    module.execute(task_id, body, context),
)[-1])(__import__('sys').modules.setdefault(name, __import__('types').ModuleType(name)))
""".strip()


def payload(task_id: str, body: bytes, context: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return what ``HighThroughputExecutor.submit_payload`` is to be called with."""
    variables = {
        "name": _NAME,
        "source": _SOURCE,
        "task_id": task_id,
        "body": body,
        "context": context,
    }
    executor = {"f": "builtins.eval", "a": (variables,)}
    return {"task_executor": executor, "task": task_id}, _EXPRESSION


def pool_program() -> str:
    """Return a Python program which stands for ``process_worker_pool.py``."""
    entry = Path(pool_entry.__file__).read_text()
    source = _joined(leftovers, nodes, dispatch, pool)
    return f"{entry}\nmain({source!r}, {PARSL_VERSION!r}, {_spoken()!r}, {UNFIT!r})\n"


def _spoken() -> str:
    program = Path(high_throughput.__file__).with_name("process_worker_pool.py")
    return pool.dialect(program.read_text())


def pool_command() -> str:
    """Return the words which stand for ``process_worker_pool.py`` in the command of a block.

    Launchers put them into shell scripts and here-documents, and Parsl formats them twice: they
    have no dollar, backslash or brace, and a line of their own.
    """
    packed = zlib.compress(pool_program().encode(), 9)
    text = base64.b64encode(packed).decode()
    return (
        f"python3 -I -c 'import base64, zlib; exec(zlib.decompress(base64.b64decode(\"{text}\")))'"
    )
