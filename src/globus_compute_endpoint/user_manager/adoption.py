# SPDX-License-Identifier: Apache-2.0
"""Find the user endpoints which an earlier instance of a user's manager has left running."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.host import packets
from globus_compute_endpoint.host.processes import send_signal, wait_for_end
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.hosting import Held, OnEnd, UserEndpoint
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.user_endpoint.leftovers import end_leftovers
from globus_compute_endpoint.user_manager.hosting import Keeping, OwnUserEndpoint
from globus_compute_endpoint.user_manager.processes import (
    ProcessRecord,
    ProcessRecords,
    records_directory,
)

__all__ = ["adopt_own", "end_orphans"]

log = logging.getLogger(__name__)

_KILL_TIMEOUT_S = 10.0


def adopt_own(
    records: StartRecords,
    keeping: Keeping,
    *,
    adopt: Callable[[UserEndpoint], None],
    on_end: OnEnd,
    resume: Callable[[StartRecord, str | None], None],
) -> None:
    """Call ``adopt`` for each that lives, and ``resume`` for each that is gone.

    One of another machine may live there: it is left to the web services, who ask again for one
    which has work and is silent.
    """
    for endpoint_id in list(records):
        record, process = records.read(endpoint_id), keeping.processes.read(endpoint_id)
        pidfd = process.open() if process else None
        if record is not None and process is not None and pidfd is not None:
            held = Held(process.pid, pidfd, _take_up(endpoint_id, process))
            adopt(OwnUserEndpoint(record, held, on_end, keeping, process=process))
            continue
        if pidfd is not None:
            os.close(pidfd)
        keeping.processes.remove(endpoint_id)
        if record is None or (process and not process.is_of_this_machine()):
            where = f", but may still run on {process.host}" if process else ""
            log.warning("forgetting user endpoint %s%s", endpoint_id, where)
            records.remove(endpoint_id)
        else:
            if process and process.is_of_this_boot() and process.instance:
                end_leftovers(process.instance, process.pid)
            resume(record, None)


def _take_up(endpoint_id: UUID, process: ProcessRecord) -> Control | None:
    """Talk to it again; None where it does not listen, as other installations' do not."""
    if process.address is None:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        connection.connect("\0" + process.address)
        if packets.peer_of(connection).uid != os.getuid():
            raise PermissionError("its address is another user's now")
    except OSError as error:
        log.warning("cannot talk to user endpoint %s: %s", endpoint_id, error)
        connection.close()
        return None
    return Control(endpoint_id, connection)


def end_orphans(endpoint: Path, seconds: float) -> None:
    """End the user endpoints of a manager which was killed; after so long, for good.

    ``endpoint`` is the manager's directory. Start records stay: the next manager looks what work
    is left.
    """
    directory = records_directory(endpoint)
    records, processes = StartRecords(directory), ProcessRecords(directory)
    if not directory.is_dir():
        return
    alive = dict(_alive(records, processes))
    for pidfd in alive.values():
        send_signal(pidfd, signal.SIGTERM)
    deadline = time.monotonic() + seconds  # for all of them together
    for endpoint_id, pidfd in alive.items():
        if not wait_for_end(pidfd, max(0, deadline - time.monotonic())):
            send_signal(pidfd, signal.SIGKILL)
            wait_for_end(pidfd, _KILL_TIMEOUT_S)
        os.close(pidfd)
        processes.remove(endpoint_id)


def _alive(records: StartRecords, processes: ProcessRecords) -> Iterator[tuple[UUID, int]]:
    for endpoint_id in records:
        process = processes.read(endpoint_id)
        pidfd = process.open() if process else None
        if pidfd is not None:
            yield endpoint_id, pidfd
