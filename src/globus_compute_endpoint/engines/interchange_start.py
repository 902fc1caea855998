# SPDX-License-Identifier: Apache-2.0
"""Starting Parsl's interchange, which may end before it has answered anything."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from globus_compute_endpoint.engines.losses import end_of_file

__all__ = ["heed_early_end"]

_READ = 4096  # bytes from the end of its log


def heed_early_end(executor: Any) -> None:
    """Have an executor's start fail with the reason as soon as its interchange has ended.

    Parsl would wait for two minutes: for one whose port is taken, for instance.
    """
    start = executor._start_local_interchange_process

    def start_and_ask() -> None:
        client = executor.command_client
        ask, client.run = client.run, partial(_ask, executor)
        try:
            start()
        finally:
            client.run = ask

    executor._start_local_interchange_process = start_and_ask


def _ask(executor: Any, question: object, timeout_s: float) -> Any:
    socket = executor.command_client.zmq_socket
    process = os.pidfd_open(executor.interchange_proc.pid)
    try:
        for event in (zmq.POLLOUT, zmq.POLLIN):
            poller = zmq.Poller()
            poller.register(socket, event)
            poller.register(process, zmq.POLLIN)
            happened = dict(poller.poll(int(timeout_s * 1000)))
            if process in happened:
                raise RuntimeError(_end(executor))
            if socket not in happened:
                raise TimeoutError("Parsl's interchange process does not answer")
            if event == zmq.POLLOUT:
                socket.send_pyobj(question)
        return socket.recv_pyobj()
    finally:
        os.close(process)


def _end(executor: Any) -> str:
    status = executor.interchange_proc.wait()
    told = f"Parsl's interchange process has ended at once (exit status {status})"
    with contextlib.suppress(OSError, IndexError):  # it may not have come so far
        log = Path(executor.logdir, "interchange.log")
        told += f": {end_of_file(log, _READ).splitlines()[-1]}"
    return told
