# SPDX-License-Identifier: Apache-2.0
"""The user endpoints that this spawner forked: one per UUID, each known until it is reaped."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.host import cgroups
from globus_compute_endpoint.host.paths import state_directory
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.child import Barrier, run_child
from globus_compute_endpoint.spawner.obituary import Obituary
from globus_compute_endpoint.spawner.protocol import ScopeRecord, Spawn, scope_name

__all__ = ["Child", "Children", "start_time_of"]

log = logging.getLogger(__name__)

_NOBODY = 65534


@dataclass
class Child:
    """A forked process, from its barrier to its end."""

    request: Spawn
    pid: int
    pidfd: int
    barrier: int | None
    owner: object = field(repr=False)

    def open_barrier(self) -> None:
        """Let it go on."""
        if self.barrier is not None:
            os.write(self.barrier, b"G")
            self.close_barrier()

    def close_barrier(self) -> None:
        """A child which is still behind it reads the end of the pipe, and ends itself."""
        if self.barrier is not None:
            os.close(self.barrier)
            self.barrier = None


class Children:
    """Forks children and keeps the rule that there is never a second one of the same UUID."""

    def __init__(self, manager: str, obituary: Path) -> None:
        """``obituary``: a file which tells our successor how our children ended."""
        self._manager = manager
        self._alive: dict[UUID, Child] = {}
        self._ended = Obituary(obituary)

    def fork(self, request: Spawn, document: int, control: int, owner: object) -> Child:
        """Fork a child which waits at its barrier. Raises Problem where it must never be."""
        self._check(request)
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _run_and_exit(request, Barrier(reader, document, control))
        os.close(reader)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.close(writer)  # which ends the child
            os.waitpid(pid, 0)
            raise
        child = Child(request, pid, pidfd, writer, owner)
        self._alive[request.endpoint_id] = child
        self._ended.forget(request.endpoint_id)
        return child

    def release(self, endpoint_id: UUID) -> None:
        """Write the record of who lives in the scope, then open the barrier.

        Raises Problem where there is no such child, or where it is not in its own scope.
        """
        child = self._alive.get(endpoint_id)
        if not child or child.barrier is None:
            raise Problem("NO_SUCH_CHILD", f"no child of {endpoint_id} waits to be released")
        unit = cgroups.unit_of(child.pid)
        if unit != scope_name(endpoint_id):
            raise Problem("WRONG_SCOPE", f"the child of {endpoint_id} is still in {unit}")
        record = ScopeRecord(
            endpoint_id=endpoint_id,
            manager=self._manager,
            uid=child.request.user.uid,
            pid=child.pid,
            start_time=start_time_of(child.pid),
        )
        cgroups.write_record(cgroups.directory_of(child.pid), record.model_dump_json().encode())
        child.open_barrier()

    def reap(self, child: Child) -> None:
        """Take note of how a child ended."""
        _, wait_status = os.waitpid(child.pid, 0)
        child.close_barrier()
        os.close(child.pidfd)
        del self._alive[child.request.endpoint_id]
        _remove_if_empty(state_directory(child.request.user.uid, child.request.endpoint_id))
        self._ended.add(child.request.endpoint_id, child.pid, wait_status)

    def ended_but_not_reaped(self, endpoint_id: UUID, pid: int) -> Child | None:
        """That child, if it is a zombie."""
        child = self._alive.get(endpoint_id)
        return child if child and child.pid == pid and _is_zombie(child) else None

    def wait_status(self, endpoint_id: UUID, pid: int) -> int | None:
        """How that child ended; None where it still lives or was not ours."""
        return self._ended.of(endpoint_id, pid)

    def last_wait_status(self, endpoint_id: UUID) -> int | None:
        """How the last child of ``endpoint_id`` ended; None where that is not known."""
        return self._ended.last_of(endpoint_id)

    def abandon(self, owner: object) -> None:
        """End the children which a manager that went away left at their barrier."""
        for child in self._alive.values():
            if child.owner is owner:
                child.close_barrier()

    def _check(self, request: Spawn) -> None:
        user = request.user
        if user.uid < request.minimum_uid or user.gid == 0 or 0 in user.groups:
            raise _refused(f"{user.uname} (uid {user.uid}) is root or a system account")
        if user.uid in (_NOBODY, 65535, 2**32 - 1):
            raise _refused(f"{user.uname} (uid {user.uid}) is nobody's account")
        if request.endpoint_id in self._alive:
            raise Problem("ALREADY_RUNNING", f"a child of {request.endpoint_id} lives already")


def start_time_of(pid: int) -> int:
    """When a process began, in clock ticks since boot: with its pid, who it is; see proc(5)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def _remove_if_empty(directory: Path) -> None:
    """What a user endpoint left there is its successor's; an empty directory is nobody's."""
    try:
        directory.rmdir()
    except OSError as error:
        log.debug("%s stays: %s", directory, error.strerror)


def _refused(what: str) -> Problem:
    return Problem("USER_REFUSED", f"spawner refused: {what}", exit_status=ExitStatus.NO_PERMISSION)


def _is_zombie(child: Child) -> bool:
    info = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return info is not None


def _run_and_exit(request: Spawn, barrier: Barrier) -> None:
    """The child's last frame: whatever happens, it never returns into the spawner's code."""
    status: int = ExitStatus.INTERNAL
    try:
        status = run_child(request, barrier)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else status
    except BaseException:  # noqa: BLE001 - the process ends here, and says why
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
