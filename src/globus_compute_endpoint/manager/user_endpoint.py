# SPDX-License-Identifier: Apache-2.0
"""One user endpoint as its manager sees it: started in steps, watched by a pidfd, cleaned up."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host import notify
from globus_compute_endpoint.host.paths import state_directory
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.host.systemd import Properties, ServiceManager
from globus_compute_endpoint.manager.authorize import Approved
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.launching import launch_document
from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.manager.spawner_client import Forked, SpawnerClient
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.protocol import Spawn, scope_name

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["End", "Host", "UserEndpoint", "slice_name", "start_user_endpoint"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """How a user endpoint ended. ``problem``: what its user has not yet been told."""

    clean: bool
    problem: ProblemFields | None


class UserEndpoint:
    """A user endpoint which lives in its scope, and the descriptors by which we hold on to it."""

    def __init__(
        self,
        record: StartRecord,
        uid: int,
        forked: Forked,
        control: Control | None,
        on_end: Callable[[UserEndpoint], None],
    ) -> None:
        self.record = record
        self.uid = uid
        self.pid = forked.pid
        self.control = control
        self._pidfd = forked.pidfd
        self._on_end = on_end
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    @property
    def endpoint_id(self) -> UUID:
        """Its identifier with the web services."""
        return self.record.start.endpoint_id

    def keep_across_restarts(self) -> None:
        """Have systemd hold our descriptors while we are not there."""
        notify.store(f"pidfd.{self.endpoint_id}", self._pidfd)
        if self.control:
            notify.store(f"control.{self.endpoint_id}", self.control.fileno())

    async def wait(self) -> None:
        """Return once its process has ended."""
        await asyncio.shield(self._ended)

    def is_alive(self) -> bool:
        """Whether its process runs; a zombie does not."""
        try:
            signal.pidfd_send_signal(self._pidfd, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another uid's, and we have no CAP_KILL: but it is there
            return not self._ended.done()
        return not self._ended.done()

    async def clean_up(self, host: Host) -> End:
        """Learn how it ended, and empty its scope."""
        scope = scope_name(self.endpoint_id)
        scope_end = await host.systemd.scope_result(scope)
        wait_status = await self._wait_status(host.spawner)
        # What it left behind serves nobody any more, and could hold a polite stop up for long.
        await host.systemd.clear_unit(scope)
        state = self.control.last.state if self.control else "running"
        result = scope_end.result if scope_end else "success"
        return _judge(state, wait_status, result)

    def let_go(self) -> None:
        """Close our descriptors, here and in the store; the process itself is not touched."""
        for name in ("pidfd", "control"):
            notify.remove_stored(f"{name}.{self.endpoint_id}")
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self.control:
            self.control.close()

    async def _wait_status(self, spawner: SpawnerClient) -> int | None:
        try:
            return await spawner.wait_status(self.endpoint_id, self.pid)
        except Problem as problem:
            log.warning("how process %d ended is not known: %s", self.pid, problem)
            return None

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if not self._ended.done():
            self._ended.set_result(None)
            self._on_end(self)


def slice_name(uid: int) -> str:
    """The slice that all user endpoints of one local user share."""
    return f"globus-compute-{uid}.slice"


@dataclass(frozen=True)
class Host:
    """Those who do for a manager what it has no rights to do itself."""

    spawner: SpawnerClient
    systemd: ServiceManager


async def start_user_endpoint(
    approved: Approved,
    settings: ManagerSettings,
    manager_id: UUID,
    host: Host,
    on_end: Callable[[UserEndpoint], None],
) -> UserEndpoint:
    """Fork, place into a scope, release. Raises Problem; then nothing is left behind."""
    spawner, user, start = host.spawner, approved.user, approved.record.start
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    content = launch_document(
        approved.record,
        settings,
        user,
        approved.mapped.identity.sub,
        manager_id=manager_id,
        state_directory=state_directory(user.uid, start.endpoint_id),
    )
    document = _sealed(content)
    spawn = Spawn(
        number=spawner.next_number(),
        endpoint_id=start.endpoint_id,
        name=start.name,
        user=user,
        minimum_uid=settings.config.minimum_uid,
        no_new_privs=settings.config.no_new_privs,
        debug=settings.config.debug,
    )
    try:
        forked = await spawner.spawn(spawn, document, theirs.fileno())
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(document)
    control = Control(start.endpoint_id, ours)
    endpoint = UserEndpoint(approved.record, user.uid, forked, control, on_end)
    try:
        await _place(endpoint, user, settings, host)
    except BaseException:
        # The child hears the control socket close. Its scope, if there is one of that name, may be
        # another's.
        endpoint.let_go()
        raise
    try:
        endpoint.keep_across_restarts()
        await _release(endpoint, host)
    except BaseException:
        endpoint.let_go()
        await host.systemd.clear_unit(scope_name(start.endpoint_id))
        raise
    return endpoint


async def _place(
    endpoint: UserEndpoint,
    user: LocalUser,
    settings: ManagerSettings,
    host: Host,
) -> None:
    control = settings.config.resource_control
    await host.systemd.set_properties(slice_name(user.uid), control.user.all_properties())
    start = endpoint.record.start
    properties: Properties = [
        ("Description", ("s", f"Globus Compute user endpoint {start.endpoint_id} ({user.uname})")),
        ("Slice", ("s", slice_name(user.uid))),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("KillMode", ("s", "control-group")),
        *control.endpoint.properties(),
    ]
    await host.systemd.start_scope(scope_name(start.endpoint_id), endpoint.pid, properties)


async def _release(endpoint: UserEndpoint, host: Host) -> None:
    # A zombie would leave its scope active for ever: no process, and no event to end it.
    if not endpoint.is_alive():
        raise Problem("CHILD_DIED", "the forked child ended before its scope was ready")
    await host.spawner.release(endpoint.endpoint_id)


def _sealed(content: bytes) -> int:
    """A memory file which nobody can change any more; see memfd_create(2). The caller closes it."""
    descriptor = os.memfd_create("launch", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _judge(state: str, wait_status: int | None, scope_result: str) -> End:
    """What its end means, from its own last word, its parent's and systemd's."""
    if wait_status == 0 or (wait_status is None and state == "stopped"):
        return End(clean=True, problem=None)
    if state == "failed":  # it has told its user why
        return End(clean=False, problem=None)
    return End(clean=False, problem=ProblemFields.of(_explain(wait_status, scope_result)))


def _explain(wait_status: int | None, scope_result: str) -> Problem:
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
    else:
        # adopted from an earlier manager: its parent, who would know, is gone
        reason = "its process ended"
        hint = "a function which calls os._exit ends a ThreadPoolEngine; the journal may tell more"
    return Problem(
        "USER_ENDPOINT_DIED", f"the user endpoint has died: {reason}", hint, ExitStatus.INTERNAL
    )
