# SPDX-License-Identifier: Apache-2.0
"""The spawner's unit: preload once, fork once, let the copy serve."""

from __future__ import annotations

import gc
import logging
import os

from setproctitle import setproctitle

from globus_compute_endpoint.host import journal, notify, packets
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.spawner.server import Server

__all__ = ["run_spawner"]

log = logging.getLogger(__name__)


def run_spawner(paths: EndpointPaths) -> int:
    """Become the zygote and serve until SIGTERM; returns the exit status.

    Importing the SDK starts a thread, and a fork of a process with threads may copy a lock which
    another thread holds. So this process imports, forks a copy with one thread, makes it the
    unit's main process, and goes.
    """
    from globus_compute_endpoint.user_endpoint.preload import preload

    notify.notify(STATUS="loading")
    preload()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        notify.notify(MAINPID=pid)  # before READY=1, which only the main process may send
        os.write(writer, b"G")
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    os.environ["WATCHDOG_PID"] = str(os.getpid())  # it named the process that we took over from
    return _serve(paths)


def _serve(paths: EndpointPaths) -> int:
    journal.log_to_journal("globus-compute-endpoint-spawner")
    setproctitle(f"Globus Compute Endpoint spawner ({paths.name})")
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count, not paths
    if threads != 1:
        raise Problem("ZYGOTE_HAS_THREADS", f"the zygote has {threads} threads instead of one")
    gc.freeze()
    with packets.listen(paths.spawner_socket, 0o600) as listener:
        listener.setblocking(False)
        notify.notify(READY=1, STATUS="ready to fork")
        Server(listener, paths.manager_unit).serve()
    notify.notify(STOPPING=1)
    return 0
