# SPDX-License-Identifier: Apache-2.0
"""Become a local user for good, and make sure that there is no way back.

Order and completeness after setuid(2), credentials(7) and "Setuid Demystified" (Chen et al.).
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from globus_compute_endpoint.host import libc
from globus_compute_endpoint.problem import Problem

__all__ = ["LocalUser", "become", "reset_signals"]

_ROOT_IDS = (0, 65535, 2**32 - 1)


@dataclass(frozen=True)
class LocalUser:
    """A user as the passwd and group databases know them."""

    uname: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    group_names: tuple[str, ...]
    gecos: str
    home: str
    shell: str


def reset_signals() -> None:
    """Default handlers and an empty mask: both outlive fork(2)."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # glibc reserves the first real-time signals for itself
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)  # else a signal would write into a descriptor that is another's now
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as CPython starts: an EPIPE is an exception
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def become(user: LocalUser, *, no_new_privs: bool = False, login: bool = True) -> None:
    """Turn this root process into one of ``user``'s, as after a login.

    Without ``login``, audit(8) goes on taking it for a deed of the one who runs it; and as root's
    terminal stays at hand, other processes of ``user`` may not look or write into this one.

    Raises Problem where anything of root's would remain; the caller must then end the process.
    """
    if user.uid in _ROOT_IDS or user.gid in _ROOT_IDS or 0 in user.groups:
        raise Problem("ROOT_REFUSED", f"user {user.uname} would run with root's uid or group")
    libc.join_new_session_keyring()
    if login:
        _set_login_uid(user.uid)
    with contextlib.suppress(PermissionError):  # raising it back to 0 needs CAP_SYS_RESOURCE
        Path("/proc/self/oom_score_adj").write_text("0")
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    libc.clear_ambient_capabilities()
    os.setresuid(user.uid, user.uid, user.uid)
    libc.clear_capabilities()
    if no_new_privs:
        libc.set_no_new_privs()
    if login:
        libc.set_dumpable()
    _check_no_way_back(user)


def _set_login_uid(uid: int) -> None:
    """Name the user for audit(8); kernels without audit, and containers, refuse."""
    with contextlib.suppress(OSError):
        Path("/proc/self/loginuid").write_text(str(uid))


def _check_no_way_back(user: LocalUser) -> None:
    ids_stayed = (
        os.getresuid() != (user.uid,) * 3
        or os.getresgid() != (user.gid,) * 3
        or set(os.getgroups()) - set(user.groups) - {user.gid}
    )
    capabilities = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("CapInh:", "CapPrm:", "CapEff:", "CapAmb:"))
    ]
    has_capabilities = any(int(line.split()[1], 16) for line in capabilities)
    if ids_stayed or has_capabilities or len(capabilities) != 4 or _can_return_to_root():
        raise Problem("DROP_FAILED", f"could not give up root's rights for user {user.uname}")


def _can_return_to_root() -> bool:
    for attempt in (os.setuid, os.setgid):
        try:
            attempt(0)
        except PermissionError:
            continue
        return True
    return False
