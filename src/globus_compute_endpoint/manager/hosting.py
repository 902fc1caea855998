# SPDX-License-Identifier: Apache-2.0
"""A user endpoint as its manager sees it, whichever way it was started and is held."""

from __future__ import annotations

import abc
import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.protocol import Identity, ProblemFields
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Approved", "End", "Held", "Hosting", "OnEnd", "UserEndpoint", "judge"]


@dataclass(frozen=True)
class Approved:
    """A start command, and the local user as whom it will be carried out for an identity."""

    record: StartRecord
    identity: Identity
    user: LocalUser

    def fields(self) -> dict[str, str]:
        """For the journal."""
        return {
            "GC_ENDPOINT_ID": str(self.record.start.endpoint_id),
            "GC_IDENTITY": str(self.record.start.effective_identity),
            "GC_LOCAL_USER": self.user.uname,
        }


@dataclass(frozen=True)
class End:
    """How a user endpoint ended. ``problem``: what its user has not yet been told."""

    clean: bool
    problem: ProblemFields | None


class UserEndpoint(abc.ABC):
    """Its process, watched by a pidfd, and the socket to talk to it, if that is not lost."""

    def __init__(
        self, record: StartRecord, uid: int, held: Held, on_end: Callable[[UserEndpoint], None]
    ) -> None:
        self.record = record
        self.uid = uid
        self.pid = held.pid
        self.control = held.control
        self._pidfd = held.pidfd
        self._on_end = on_end
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    @property
    def endpoint_id(self) -> UUID:
        """Its identifier with the web services."""
        return self.record.start.endpoint_id

    async def wait(self) -> None:
        """Return once its process has ended."""
        await asyncio.shield(self._ended)

    def is_alive(self) -> bool:
        """Whether its process runs; a zombie does not."""
        if self._ended.done():
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another uid's, and we have no CAP_KILL: but it is there
            pass
        return True

    def ask_to_finish(self) -> None:
        """Have it take no more tasks, and end when those which run are done."""
        if self.control:
            self.control.drain()

    async def ask_to_end(self) -> None:
        """Have it end; by a signal where it does not listen to us."""
        if self.control and self.control.is_open:
            self.control.stop()
        else:
            await self.terminate()

    @abc.abstractmethod
    async def terminate(self) -> None:
        """Send it SIGTERM."""

    @abc.abstractmethod
    async def kill(self) -> None:
        """Kill it, and whatever it started."""

    @abc.abstractmethod
    async def clean_up(self) -> End:
        """Learn how it ended, and end what it left behind."""

    def let_go(self) -> None:
        """Close our descriptors; the process itself is not touched."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self.control:
            self.control.close()

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if not self._ended.done():
            self._ended.set_result(None)
            self._on_end(self)


OnEnd = Callable[[UserEndpoint], None]


@dataclass(frozen=True)
class Held:
    """A process and what we hold it by; whoever has this closes it."""

    pid: int
    pidfd: int
    control: Control | None


class Hosting(Protocol):
    """How one kind of manager decides about user endpoints, and starts them."""

    async def authorize(self, record: StartRecord) -> Approved:
        """Who is to run it. Raises Problem, worded for the researcher."""

    async def start(self, approved: Approved, manager_id: UUID, on_end: OnEnd) -> UserEndpoint:
        """Start it. Raises Problem; then nothing is left behind."""


def judge(state: str, wait_status: int | None, scope_result: str) -> End:
    """What its end means, from its own last word, its parent's and systemd's."""
    if wait_status == 0 or (wait_status is None and state == "stopped"):
        return End(clean=True, problem=None)
    if state == "failed":  # it has told its user why
        return End(clean=False, problem=None)
    return End(clean=False, problem=ProblemFields.of(_explain(state, wait_status, scope_result)))


def _explain(state: str, wait_status: int | None, scope_result: str) -> Problem:
    if scope_result == "oom-kill":
        reason, hint = "it ran out of memory", "ask for less memory, or for a higher limit"
    elif scope_result == "timeout":
        reason, hint = "its time limit was reached", "submit shorter work, or ask for a longer time"
    elif wait_status is not None and os.WIFSIGNALED(wait_status):
        name = signal.Signals(os.WTERMSIG(wait_status)).name
        reason, hint = f"it was killed by {name}", "it may have reached its memory limit"
    elif wait_status is not None:
        reason = f"its process exited with status {os.waitstatus_to_exitcode(wait_status)}"
        hint = "a function which calls os._exit ends a ThreadPoolEngine: use another engine"
        if state == "starting":
            hint = "the end of its endpoint.log may tell why"
    else:
        # adopted from an earlier manager: its parent, who would know, is gone
        reason = "its process ended"
        hint = "a function which calls os._exit ends a ThreadPoolEngine; the journal may tell more"
    return Problem(
        "USER_ENDPOINT_DIED", f"the user endpoint has died: {reason}", hint, ExitStatus.INTERNAL
    )
