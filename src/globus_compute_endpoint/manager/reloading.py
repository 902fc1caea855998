# SPDX-License-Identifier: Apache-2.0
"""``systemctl reload``: what the administrator has written comes into force, whole or not at all.

``ExecReload=`` runs a client of ours which asks the manager and waits for its answer, because
``Type=notify-reload`` came with systemd 253 only; see systemd.service(5).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from globus_compute_endpoint.host import packets
from globus_compute_endpoint.host.questions import QuestionSocket, ask
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["ReloadSocket", "request_reload"]

log = logging.getLogger(__name__)

_REQUEST = b"reload"
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
        self._one_at_a_time = asyncio.Lock()
        self._socket = QuestionSocket(packets.listen(path, 0o600), _REQUEST, self._answer)

    def close(self) -> None:
        """Stop listening; a reload under way is given up, its client told so by the hang-up."""
        self._socket.close()

    async def _answer(self) -> tuple[bytes]:
        async with self._one_at_a_time:
            try:
                answer = _Answer(changed=await self._carry_out())
            except Problem as problem:
                log.error("reload: %s", problem, extra={"GC_PROBLEM": problem.code})
                answer = _Answer(problem=ProblemFields.of(problem))
            return (answer.model_dump_json().encode(),)


def request_reload(path: Path) -> tuple[str, ...]:
    """Have a manager take its configuration anew; returns what changed, in words.

    Raises:
        Problem: what the manager says is wrong with it, or that there is no manager.
    """
    try:
        frames = ask(path, _REQUEST, _ANSWER_TIMEOUT_S)
        answer = _Answer.model_validate_json(b"".join(frames))
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
