# SPDX-License-Identifier: Apache-2.0
"""A user endpoint as its manager sees it, whichever way it was started and is held."""

from __future__ import annotations

import abc
import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.ends import End
from globus_compute_endpoint.manager.launching import Past
from globus_compute_endpoint.manager.memory import MemoryWitness, memory_cgroup, usage_of
from globus_compute_endpoint.manager.protocol import Identity
from globus_compute_endpoint.manager.starts import StartRecord

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Approved", "Held", "Hosting", "OnEnd", "Remnant", "UserEndpoint"]


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


class UserEndpoint(abc.ABC):
    """Its process, watched by a pidfd, and the socket to talk to it, if that is not lost."""

    adopted = False  # whether an earlier instance of its manager started it
    unit: str | None = None  # of systemd, around it

    def __init__(
        self, record: StartRecord, uid: int, held: Held, on_end: Callable[[UserEndpoint], None]
    ) -> None:
        self.record = record
        self.uid = uid
        self.pid = held.pid
        self.control = held.control
        self._pidfd = held.pidfd
        self._on_end = on_end
        self._since = time.monotonic()
        self._group: Path | None = None
        self._memory: MemoryWitness | None = None
        self.memory_limit: str | None = None  # for which it was killed, once it has ended
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    @property
    def endpoint_id(self) -> UUID:
        """Its identifier with the web services."""
        return self.record.start.endpoint_id

    @property
    def seconds(self) -> float:
        """How long we have known it."""
        return time.monotonic() - self._since

    def watch_memory(self, group: str | None) -> None:
        """Take notice of it running out of memory; ``group`` is its scope's ControlGroup."""
        if group is not None:
            self._group = memory_cgroup(group)
            self._memory = MemoryWitness(self._group)

    def usage(self) -> tuple[int | None, int | None]:
        """Bytes of memory, and processes, in its group; None where that is not known."""
        return usage_of(self._group) if self._group else (None, None)

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
        if self._memory:  # first of all: the group may be gone in a moment
            self.memory_limit = self._memory.testify()
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


@dataclass(frozen=True)
class Remnant:
    """What a user endpoint without a process has left: work or none; why it ended, if known."""

    work: bool
    reason: str | None = None


class Hosting(Protocol):
    """How one kind of manager decides about user endpoints, and starts them."""

    async def authorize(self, record: StartRecord) -> Approved:
        """Who is to run it. Raises Problem, worded for the researcher."""

    async def start(
        self, approved: Approved, manager_id: UUID, on_end: OnEnd, past: Past
    ) -> UserEndpoint:
        """Start it. Raises Problem; then nothing is left behind."""

    async def remains(self, record: StartRecord) -> Remnant:
        """What one that ended has left. Raises Problem where that cannot be told."""

    async def boot(self) -> str:
        """What is different after each boot of this host."""

    def left_in(self, record: StartRecord) -> str:
        """The directory with its journal, for administrators."""
