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
from globus_compute_endpoint.manager.starts import StartRecords
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
    adopt: Callable[[UserEndpoint], None],
    on_end: OnEnd,
) -> None:
    """Call ``adopt`` for each that lives, and forget the others.

    The web services ask again for one which has work.
    """
    for endpoint_id in list(records):
        record, process = records.read(endpoint_id), keeping.processes.read(endpoint_id)
        pidfd = process.open() if process else None
        if record is None or process is None or pidfd is None:
            _tell_where(endpoint_id, process)
            if pidfd is not None:
                os.close(pidfd)
            records.remove(endpoint_id)
            keeping.processes.remove(endpoint_id)
        else:
            held = Held(process.pid, pidfd, _take_up(endpoint_id, process))
            adopt(OwnUserEndpoint(record, held, on_end, keeping, scope=process.scope))


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

    ``endpoint`` is the manager's directory.
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
        records.remove(endpoint_id)
        processes.remove(endpoint_id)


def _alive(records: StartRecords, processes: ProcessRecords) -> Iterator[tuple[UUID, int]]:
    for endpoint_id in records:
        process = processes.read(endpoint_id)
        pidfd = process.open() if process else None
        if pidfd is not None:
            yield endpoint_id, pidfd


def _tell_where(endpoint_id: UUID, process: ProcessRecord | None) -> None:
    if process and not process.is_of_this_machine():
        log.warning("user endpoint %s may still run on %s", endpoint_id, process.host)
    else:
        log.info("user endpoint %s is gone, forgetting its start record", endpoint_id)
