# SPDX-License-Identifier: Apache-2.0
"""The forked child: from root behind a barrier to the user's own process."""

from __future__ import annotations

import gc
import logging
import os
import pwd
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from uuid import UUID

from setproctitle import setproctitle

from globus_compute_endpoint.host import cgroups, journal, privileges
from globus_compute_endpoint.host.paths import state_directory
from globus_compute_endpoint.host.patience import within
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.protocol import Spawn, scope_name

__all__ = ["Barrier", "run_child"]

log = logging.getLogger(__name__)

_IDENTIFIER = "globus-compute-endpoint"
_HOME_PATIENCE = 5.0  # seconds
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Barrier:
    """The child's end of what holds it back until its scope exists."""

    reader: int
    document: int
    control: int


def run_child(request: Spawn, barrier: Barrier) -> int:
    """Wait, drop, become the user endpoint; returns the process's exit status."""
    gc.freeze()
    setproctitle(f"Globus Compute Endpoint ({request.endpoint_id}, {request.name}) [starting]")
    _keep_only(barrier)
    privileges.reset_signals()
    if not _released(barrier):
        return ExitStatus.TEMPORARY
    os.setsid()
    try:
        _prepare(request)
        document = _read_document(barrier.document)
        privileges.become(request.user, no_new_privs=request.no_new_privs)
        _enter_session(request.user)
        journal.log_to_journal(_IDENTIFIER, debug=request.debug)
    except Problem as problem:
        log.error("%s", problem, extra={"GC_ENDPOINT_ID": str(request.endpoint_id)})
        return problem.exit_status
    return _launch(document, barrier.control)


def _released(barrier: Barrier) -> bool:
    """Wait for the release; False where the manager gave us up, or the spawner died."""
    poller = select.poll()
    poller.register(barrier.reader, select.POLLIN)
    poller.register(barrier.control, 0)  # a hang-up is always reported
    ready = dict(poller.poll())
    released = barrier.reader in ready and os.read(barrier.reader, 1) == b"G"
    os.close(barrier.reader)
    return released


def _keep_only(barrier: Barrier) -> None:
    """Close what the zygote has open besides the three standard streams and the barrier's."""
    kept = {barrier.reader, barrier.document, barrier.control}
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):  # noqa: PTH208 - ints
        if number > 2 and number not in kept:
            try:
                os.close(number)
            except OSError:
                log.debug("descriptor %d was closed already", number)


def _prepare(request: Spawn) -> None:
    """The last checks as root, and the state directory."""
    user = request.user
    unit = cgroups.unit_of(os.getpid())
    if unit != scope_name(request.endpoint_id):
        raise Problem("WRONG_SCOPE", f"released in {unit} instead of its own scope")
    _check_passwd(user)
    _make_state_directory(user, request.endpoint_id)


def _check_passwd(user: LocalUser) -> None:
    """The manager said who it is to be; the passwd database has the last word."""
    try:
        entry = pwd.getpwnam(user.uname)
    except KeyError:
        entry = None
    if not entry or (entry.pw_name, entry.pw_uid, entry.pw_gid) != (user.uname, user.uid, user.gid):
        raise Problem(
            "USER_CHANGED",
            f"local user {user.uname} is not the one who was looked up",
            exit_status=ExitStatus.NO_PERMISSION,
        )


def _make_state_directory(user: LocalUser, endpoint_id: UUID) -> None:
    """``users/UID/UUID``: the user's own, in a directory of root's, on local disk.

    Only the leaf belongs to the user, so no component of the path can be swapped by them.
    """
    path = state_directory(user.uid, endpoint_id)
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, user.uid, user.gid)
    finally:
        os.close(descriptor)


def _read_document(descriptor: int) -> bytes:
    """The launch document: bytes to us, which only the user's process will open."""
    document = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    return document


def _enter_session(user: LocalUser) -> None:
    """A clean environment, as after a login; see environ(7)."""
    os.environ.clear()
    os.environ.update(
        HOME=user.home,
        USER=user.uname,
        LOGNAME=user.uname,
        SHELL=user.shell or "/bin/sh",
        PATH=f"{Path(sys.prefix) / 'bin'}:{_SYSTEM_PATH}",  # Parsl starts its programs by name
        LANG="C.UTF-8",
    )
    runtime = Path(f"/run/user/{user.uid}")
    if runtime.is_dir():
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    os.umask(0o022)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    if journal.has_journal():
        journal.redirect_output(_IDENTIFIER)
    _go_home(user)


def _go_home(user: LocalUser) -> None:
    """Change to the home directory, which may be missing, or on a file server that is away."""
    try:
        within(_HOME_PATIENCE, lambda: os.chdir(user.home))
    except TimeoutError:  # the user endpoint waits for it longer, and says so
        log.warning("home directory %s of %s does not answer", user.home, user.uname)
        os.chdir("/")
    except OSError as error:
        log.warning("home directory %s of %s: %s", user.home, user.uname, error.strerror)
        os.chdir("/")


def _launch(document: bytes, control: int) -> int:
    """Become the user endpoint, which opens the blob that came through the manager unread."""
    from globus_compute_endpoint.user_endpoint.launch import launch  # preloaded by the zygote

    return launch(document, socket(fileno=control))
