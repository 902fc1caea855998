# SPDX-License-Identifier: Apache-2.0
"""The spawner's unit: preload once, fork once, let the copy serve."""

from __future__ import annotations

import gc
import logging
import os

from setproctitle import setproctitle

from globus_compute_endpoint.host import journal, notify, packets
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.server import Server

__all__ = ["run_spawner"]

log = logging.getLogger(__name__)


def run_spawner(paths: EndpointPaths) -> int:
    """Become the zygote and serve until SIGTERM; returns the exit status.

    Importing the SDK starts a thread, and a fork of a process with threads may copy a lock which
    another thread holds. So a child imports, forks a copy with one thread, and goes; the copy is
    then systemd's own child, and is made the unit's main process in place of this one.
    """
    # Now, for all that will be forked: setproctitle finds its place beside the environment only
    # as long as nobody has changed that.
    setproctitle(f"Globus Compute Endpoint spawner ({paths.name})")
    notify.notify(STATUS="loading")
    go_reader, go_writer = os.pipe()
    pid_reader, pid_writer = os.pipe()
    loader = os.fork()
    if loader:
        os.close(pid_writer)
        _hand_over(loader, pid_reader, go_writer)
    os.close(go_writer)
    os.close(pid_reader)
    _load_and_fork(pid_writer)
    if os.read(go_reader, 1) != b"G":
        return ExitStatus.TEMPORARY  # the first process has died
    os.close(go_reader)
    os.environ["WATCHDOG_PID"] = str(os.getpid())  # it named the process that we took over from
    return _serve(paths)


def _hand_over(loader: int, pid_reader: int, go_writer: int) -> None:
    """Make the zygote the unit's main process, and exit; or fail as the loader did."""
    pid = os.read(pid_reader, 32).decode()
    _, status = os.waitpid(loader, 0)  # from here on the zygote's parent is systemd
    if not pid:
        os._exit(os.waitstatus_to_exitcode(status) or ExitStatus.INTERNAL)
    notify.notify(MAINPID=pid)  # before READY=1, which only the main process may send
    os.write(go_writer, b"G")
    os._exit(0)


def _load_and_fork(pid_writer: int) -> None:
    """Return in the copy alone."""
    from globus_compute_endpoint.user_endpoint.preload import preload

    preload()
    pid = os.fork()
    if pid:
        os.write(pid_writer, str(pid).encode())
        os._exit(0)
    os.close(pid_writer)


def _serve(paths: EndpointPaths) -> int:
    # Not the journal's own protocol: its socket would be opened once and inherited by all that is
    # forked, where the number of the closed descriptor would soon be something else.
    journal.log_to_stderr_stream()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count, not paths
    if threads != 1:
        raise Problem("ZYGOTE_HAS_THREADS", f"the zygote has {threads} threads instead of one")
    gc.freeze()
    with packets.listen(paths.spawner_socket, 0o600) as listener:
        listener.setblocking(False)
        notify.notify(READY=1, STATUS="ready to fork")
        Server(listener, paths.manager_unit, paths.obituary).serve()
    notify.notify(STOPPING=1)
    return 0
