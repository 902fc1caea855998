# SPDX-License-Identifier: Apache-2.0
"""Look a local user up in a child of its own.

NSS modules (LDAP, sssd) may block for as long as their server is away, leak, or crash; in a child
they take nothing with them.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import signal
import time
from dataclasses import asdict

from pydantic import TypeAdapter

from globus_compute_endpoint.host import privileges
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["UserLookUp", "calling_user", "look_up"]

_DEADLINE_S = 10.0
_MAX_ANSWER = 1 << 20  # a user may be in thousands of groups
_CHUNK = 65536
_LOCAL_USER: TypeAdapter[LocalUser | None] = TypeAdapter(LocalUser | None)


def look_up(uname: str) -> LocalUser | None:
    """What passwd and group databases say of ``uname``; blocks. None where it is nobody."""
    try:
        entry = pwd.getpwnam(uname)
    except KeyError:
        return None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return LocalUser(
        uname=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=groups,
        group_names=tuple(_group_name(gid) for gid in groups),
        gecos=_text(entry.pw_gecos),
        home=entry.pw_dir,
        shell=entry.pw_shell,
    )


def calling_user() -> LocalUser:
    """Who runs this process; blocks.

    Raises:
        Problem: the databases do not know (CONFIGURATION).
    """
    uid = os.getuid()
    with contextlib.suppress(KeyError):
        if user := look_up(pwd.getpwuid(uid).pw_name):
            return user
    raise Problem(
        "LOCAL_USER_MISSING",
        f"uid {uid} is nobody in the user database",
        "run this as a user who has an account",
        ExitStatus.CONFIGURATION,
    )


def _text(value: str) -> str:
    """Users write their own gecos field; what is not UTF-8 in it could not be passed on."""
    return value.encode(errors="surrogateescape").decode(errors="replace")


def _group_name(gid: int) -> str:
    try:
        return _text(grp.getgrgid(gid).gr_name)
    except KeyError:  # groups without an entry are common on clusters
        return str(gid)


class UserLookUp:
    """One look-up under way; ``descriptor`` becomes readable when there is an answer."""

    def __init__(self, uname: str) -> None:
        self.deadline = time.monotonic() + _DEADLINE_S
        self.descriptor, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _answer_and_exit(uname, writer)
        os.close(writer)

    def finish(self) -> LocalUser | None:
        """The answer, once it can be read or the deadline passed. Raises TimeoutError, OSError."""
        late = time.monotonic() >= self.deadline
        try:
            data = b"" if late else self._read()
        finally:
            os.close(self.descriptor)
            os.kill(self._pid, signal.SIGKILL)  # not yet reaped, so the pid is still its own
            os.waitpid(self._pid, 0)
        if late:
            raise TimeoutError(f"no answer from the user database within {_DEADLINE_S:.0f} s")
        if not data:
            raise OSError("the look-up of the local user crashed")
        return _LOCAL_USER.validate_json(data)

    def _read(self) -> bytes:
        """All of it; the child may need several turns, but not past its deadline."""
        data = b""
        while chunk := os.read(self.descriptor, _CHUNK):
            data += chunk
            if len(data) > _MAX_ANSWER or time.monotonic() >= self.deadline:
                raise OSError("the user database answered too much")
        return data


def _answer_and_exit(uname: str, writer: int) -> None:
    status = 1
    try:
        privileges.reset_signals()
        user = look_up(uname)
        os.write(writer, json.dumps(asdict(user) if user else None).encode())
        status = 0
    finally:
        os._exit(status)
