# SPDX-License-Identifier: Apache-2.0
"""``systemctl reload``: what the administrator has written comes into force, whole or not at all.

``ExecReload=`` runs a client of ours which asks the manager and waits for its answer, because
``Type=notify-reload`` came with systemd 253 only; see systemd.service(5).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from globus_compute_endpoint.host import packets
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["ReloadSocket", "request_reload"]

log = logging.getLogger(__name__)

_REQUEST = b"reload"
_REQUEST_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 80.0  # below the unit's TimeoutStartSec=, which bounds a reload too


class _Answer(BaseModel):
    """What came of it: ``problem``, or what ``changed``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    changed: tuple[str, ...] = ()
    problem: ProblemFields | None = None


class ReloadSocket:
    """Listens for processes of our own user alone, and has reloads carried out, one by one."""

    def __init__(self, path: Path, carry_out: Callable[[], Awaitable[tuple[str, ...]]]) -> None:
        self._carry_out = carry_out
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = packets.listen(path, 0o600)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Stop listening; a reload under way is given up, its client told so by the hang-up."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            peer = packets.peer_of(connection)
            if peer.uid != os.geteuid():
                log.error("refused a reload by process %d, uid %d", peer.pid, peer.uid)
                return
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    request = await self._loop.sock_recv(connection, len(_REQUEST) + 1)
                if request == _REQUEST:
                    answer = await self._answer()
                    await self._loop.sock_sendall(connection, answer.model_dump_json().encode())
            except OSError as error:  # TimeoutError is one
                log.warning("who asked for a reload went away: %s", error)

    async def _answer(self) -> _Answer:
        async with self._one_at_a_time:
            try:
                return _Answer(changed=await self._carry_out())
            except Problem as problem:
                log.error("reload: %s", problem, extra={"GC_PROBLEM": problem.code})
                return _Answer(problem=ProblemFields.of(problem))


def request_reload(path: Path) -> tuple[str, ...]:
    """Have a manager take its configuration anew; returns what changed, in words.

    Raises:
        Problem: what the manager says is wrong with it, or that there is no manager.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(_REQUEST)
            data = connection.recv(packets.MAX_FRAME)
        answer = _Answer.model_validate_json(data)
    except (OSError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
        raise Problem(
            "MANAGER_UNREACHABLE",
            f"the manager does not answer at {path}: {what}",
            "see that its unit is active",
            ExitStatus.TEMPORARY,
        ) from error
    if answer.problem:
        raise answer.problem.as_problem()
    return answer.changed
