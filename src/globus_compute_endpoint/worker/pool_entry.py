# SPDX-License-Identifier: Apache-2.0
"""Start ``worker/pool.py`` with the interpreter of the Parsl that is on the PATH.

This module travels in the command of a block, or in a file which a container gets to see. Any
Python 3 on the node runs it, though it be that of an old operating system.
"""

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

_PROGRAM = "process_worker_pool.py"
_VARIABLE = "GLOBUS_COMPUTE_POOL"  # a command line of that length would be in every `ps`
# Files which lie where the job runs are no modules.
_RUN = (
    "import sys; sys.path[:] = [each for each in sys.path if each]; import os; "
    f"source = os.environ.pop('{_VARIABLE}'); exec(source); main(source, "
)


def main(source: str, wanted: str, spoken: str, unfit: str) -> None:
    """Become Parsl's worker pool, with its arguments, by way of the ``source`` of our module.

    ``wanted`` is the endpoint's version of Parsl, ``spoken`` marks how its pool passes on tasks and
    results; ``unfit`` begins the line which says that no block can do with this environment.
    """
    if os.getpid() == 1:
        _stay_as_init()
    program = shutil.which(_PROGRAM)
    if program is None:
        sys.stderr.write(
            f"{unfit} it has no Parsl: no {_PROGRAM} is in {os.environ.get('PATH', os.defpath)}."
            " Install parsl and globus-compute-sdk there, or choose another in worker_init.\n"
        )
        sys.exit(127)
    arguments = [program, *sys.argv[1:]]
    python = _interpreter(program)
    if python:
        os.environ[_VARIABLE] = source
        try:
            run = f"{_RUN}{wanted!r}, {spoken!r}, {unfit!r})"
            os.execvp(python[0], [*python, "-c", run, *arguments])  # noqa: S606  (no shell, as meant)
        except OSError:
            del os.environ[_VARIABLE]
    os.execv(program, arguments)  # noqa: S606  (as above)


def _interpreter(program: str) -> "list[str]":
    """Return the command of a script's Python, if its first lines tell."""
    with Path(program).open("rb") as file:
        first, second = (file.readline().decode(errors="replace").strip() for _ in range(2))
    words = shlex.split(first[2:]) if first.startswith("#!") else []
    if words == ["/bin/sh"] and second.startswith("'''exec' "):  # as pip writes long paths
        words = shlex.split(second)[1:2]
    return words if any("python" in Path(word).name for word in words) else []


def _stay_as_init() -> None:
    """Have a child go on: signals do not end a container's first process, and orphans are its own.

    Once the child has ended, so does this process, and the kernel kills what is left.
    """
    child = os.fork()
    if child == 0:
        return
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, _: os.kill(child, number))
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
