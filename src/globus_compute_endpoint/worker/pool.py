# SPDX-License-Identifier: Apache-2.0
"""Run Parsl's worker pool, with what it is known to stumble over replaced.

This module travels to nodes by value, as source text, and runs beside whichever Parsl is there:
a pool of another shape than is known here runs as it is. It imports only what Parsl needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import runpy
import sys
from functools import partial
from multiprocessing import util
from pathlib import Path
from typing import Any

from globus_compute_endpoint.worker.dispatch import Dispatcher
from globus_compute_endpoint.worker.nodes import NodeScheduler

# What a pool makes of multiprocessing, in this order, and how its workers use what they are given.
_MADE = re.compile(r"self\.(\w+) = (?:SpawnContext|self\._mp_manager)\.(\w+)\(")
_KNOWN_MADE = [
    ("_mp_manager", "Manager"),
    ("_tasks_in_progress", "dict"),
    ("monitoring_queue", "Queue"),
    ("pending_task_queue", "Queue"),
    ("pending_result_queue", "Queue"),
    ("ready_worker_count", "Value"),
]
_USED = re.compile(
    r"\b(task_queue|result_queue|ready_worker_count|tasks_in_progress|task_scheduler)(\.\w+|\[)"
)
_KNOWN_USED = {
    ("task_scheduler", ".put_task"),
    ("task_scheduler", ".get_result"),
    ("task_queue", ".get"),
    ("result_queue", ".put"),
    ("ready_worker_count", ".get_lock"),
    ("ready_worker_count", ".value"),
    ("tasks_in_progress", "["),
    ("tasks_in_progress", ".pop"),
}
# The lines by which a pool and its workers pass on tasks and results.
_PASSED_ON = re.compile(
    r"^.*(?:results_sock\.recv|pickle\.loads|result_package =|\breq\[).*$|\(2 \*\* 32\) - \d+",
    re.MULTILINE,
)
_USAGE = 2  # argparse's exit status
# Before a new Python imports anything: files which lie where the job runs are no modules.
_NO_FILES = "import sys; sys.path[:] = [each for each in sys.path if each]; "


def main(source: str, wanted: str, spoken: str, unfit: str) -> None:
    """Run the pool, of which ``sys.argv[1:]`` is the command; ``source`` is this module's own.

    ``wanted`` is the endpoint's Parsl, and ``spoken`` its ``dialect``. Where the pool has another,
    or does not know its options, that is said in a line which begins with ``unfit``.
    """
    program = sys.argv[1]
    del sys.argv[0]
    sys.path.insert(0, str(Path(program).parent))
    keep_files_from_workers()
    text = Path(program).read_text()
    if dialect(text) != spoken and _tell_versions(wanted, unfit):
        sys.exit(_USAGE)  # it would run tasks whose results nobody gets
    if is_known(text):
        from parsl.multiprocessing import SpawnContext

        Dispatcher(source, partial(_give_up, unfit)).stand_in(SpawnContext)
        probe_without_name()
        if "--enable_mpi_mode" in sys.argv:
            from parsl.executors.high_throughput import mpi_resource_management

            replaced: Any = mpi_resource_management
            replaced.MPITaskScheduler = NodeScheduler
    else:
        told = "A worker which is killed may stall this pool: it is not of a Parsl known here."
        print(told, file=sys.stderr)  # noqa: T201  (to the block's standard error)
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if end.code == _USAGE:
            _tell_versions(wanted, unfit)
        raise


def dialect(text: str) -> str:
    """Return a short mark of how the pool of this text passes on tasks and results."""
    lines = {each.strip() for each in _PASSED_ON.findall(text)}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _tell_versions(wanted: str, unfit: str) -> bool:
    """Say that there is another Parsl than the endpoint's, if so."""
    found = importlib.util.find_spec("parsl")
    if found is None or found.origin is None:
        return False  # a program of the site's own, which may lead to Parsl
    # Importing Parsl takes a second, and may fail.
    version = runpy.run_path(str(Path(found.origin).with_name("version.py")))["VERSION"]
    if version == wanted:
        return False  # an option of the site's own
    told = (
        f"{unfit} its Parsl is {version} (Python {platform.python_version()}, {sys.executable}),"
        f" and the endpoint's is {wanted}, whose options or messages it does not know. Install"
        f" parsl=={wanted} there, or choose another in worker_init."
    )
    print(told, file=sys.stderr)  # noqa: T201  (as above)
    return True


def keep_files_from_workers() -> None:
    """Have what the pool spawns import nothing from where the job runs.

    A new Python looks there until it has got the pool's own path: a worker would die of a file
    socket.py as soon as it is started, and the pool start another one, for ever.
    """
    spawn: Any = util.spawnv_passfds

    def spawn_without_files(path: Any, arguments: list[Any], descriptors: Any) -> Any:
        code = arguments.index("-c") + 1
        without = [*arguments[:code], _NO_FILES + arguments[code], *arguments[code + 1 :]]
        return spawn(path, without, descriptors)

    replaced: Any = util
    replaced.spawnv_passfds = spawn_without_files


def probe_without_name() -> None:
    """Have the pool look for the interchange's address without telling its own name.

    Parsl connects under that name right after, and one time in twenty or so, the interchange has
    not seen the end of the first connection: it ignores the second, and the pool waits for ever.
    """
    from parsl.executors.high_throughput import probe

    find: Any = probe.probe_addresses

    def find_without_name(*arguments: Any, **options: Any) -> Any:
        return find(*arguments, **options | {"identity": None})

    replaced: Any = probe
    replaced.probe_addresses = find_without_name


def is_known(text: str) -> bool:
    """Return whether this is the text of a pool which ``Dispatcher`` can serve."""
    return _MADE.findall(text) == _KNOWN_MADE and set(_USED.findall(text)) == _KNOWN_USED


def _give_up(unfit: str, why: str) -> None:
    """End the pool, and say what its workers have left in their logs."""
    given = dict(word[2:].partition("=")[::2] for word in sys.argv if word.startswith("--"))
    told = f"{unfit} {why}"
    with contextlib.suppress(KeyError, OSError, IndexError, ValueError):
        block = Path(given["logdir"], f"block-{given['block_id']}")
        newest = max(block.glob("*/worker_*.log"), key=lambda path: path.stat().st_mtime)
        told += f": {newest.read_text(errors='replace').splitlines()[-1]} (see {newest})"
    print(told, file=sys.stderr, flush=True)  # noqa: T201  (to the block's standard error)
    os._exit(1)
