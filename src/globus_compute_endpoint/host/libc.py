# SPDX-License-Identifier: Apache-2.0
"""The few calls of the C library which Python 3.11 does not offer."""

from __future__ import annotations

import ctypes
import os

__all__ = [
    "IN_CLOSE_WRITE",
    "IN_MOVED_TO",
    "clear_ambient_capabilities",
    "clear_capabilities",
    "has_no_new_privs",
    "inotify_add_watch",
    "inotify_init",
    "join_new_session_keyring",
    "set_dumpable",
    "set_no_new_privs",
]

_libc = ctypes.CDLL(None, use_errno=True)

# <sys/prctl.h>
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# <asm/unistd_64.h> and <asm-generic/unistd.h>: keyctl(2) and capset(2) have no wrapper in glibc
_SYSCALLS = {"x86_64": {"keyctl": 250, "capset": 126}, "aarch64": {"keyctl": 219, "capset": 91}}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CAPABILITY_VERSION_3 = 0x20080522

# <sys/inotify.h>
IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(name: str, *arguments: object) -> int:
    number = _SYSCALLS[os.uname().machine][name]
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), name)


def set_dumpable() -> None:
    """Give /proc/self back to the user after setuid without exec; see prctl(2)."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE")


def set_no_new_privs() -> None:
    """Make setuid programs powerless for this process and all its children; see prctl(2)."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def has_no_new_privs() -> bool:
    """Whether setuid programs are powerless for this process; see prctl(2)."""
    return _check(_libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), "PR_GET_NO_NEW_PRIVS") == 1


def clear_ambient_capabilities() -> None:
    """See capabilities(7), "Ambient"."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "PR_CAP_AMBIENT")


def clear_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets; the bounding set stays, as after login.

    An empty bounding set would break newuidmap, and so rootless podman.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _syscall("capset", header, sets)


def join_new_session_keyring() -> None:
    """Join a new, anonymous, empty session keyring; see keyctl(2).

    Without it all user endpoints would possess the spawner's, and so one another's keys.
    """
    _syscall("keyctl", ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING), None)


def inotify_init() -> int:
    """Open a non-blocking inotify descriptor; the caller closes it."""
    return _check(_libc.inotify_init1(_IN_NONBLOCK_CLOEXEC), "inotify_init1")


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """Watch ``path``; see inotify(7)."""
    return _check(_libc.inotify_add_watch(descriptor, os.fsencode(path), mask), path)
