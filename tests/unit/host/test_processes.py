# SPDX-License-Identifier: Apache-2.0
"""Processes which end while we deal with them."""

from __future__ import annotations

import os
import signal
import subprocess

from globus_compute_endpoint.host.processes import (
    ProcessIdentity,
    open_process,
    send_signal,
    wait_for_end,
)


def test_a_signal_ends_a_process_and_one_more_is_no_error() -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as child,
        open_process(ProcessIdentity.of(child.pid)) as pidfd,
    ):
        assert pidfd is not None
        assert not wait_for_end(pidfd, 0)
        send_signal(pidfd, signal.SIGTERM)
        assert wait_for_end(pidfd, 10)
        child.wait()
        send_signal(pidfd, signal.SIGKILL)


def test_another_process_of_the_same_number_is_not_it() -> None:
    own = ProcessIdentity.own()
    with open_process(ProcessIdentity(os.getpid(), own.start_time + 1)) as pidfd:
        assert pidfd is None
