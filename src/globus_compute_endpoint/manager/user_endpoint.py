# SPDX-License-Identifier: Apache-2.0
"""One user endpoint of the system's manager: forked, put into its scope, released, cleaned up."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host import notify
from globus_compute_endpoint.host.paths import state_directory
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.host.systemd import Properties, ServiceManager
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.ends import End, Evidence, judge
from globus_compute_endpoint.manager.hosting import Approved, Held, OnEnd, UserEndpoint
from globus_compute_endpoint.manager.launching import Past, launch_document
from globus_compute_endpoint.manager.spawner_client import SpawnerClient
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.spawner.protocol import Spawn, scope_name

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Host", "ScopedUserEndpoint", "slice_name", "start_user_endpoint"]

log = logging.getLogger(__name__)


class ScopedUserEndpoint(UserEndpoint):
    """A user endpoint of another user's, in a scope of the system's service manager.

    Its descriptors are in systemd's keeping while we are not there.
    """

    def __init__(
        self, record: StartRecord, uid: int, held: Held, on_end: OnEnd, host: Host
    ) -> None:
        super().__init__(record, uid, held, on_end)
        self._host = host
        self.unit = scope_name(self.endpoint_id)

    def keep_across_restarts(self) -> None:
        """Have systemd hold our descriptors while we are not there."""
        notify.store(f"pidfd.{self.endpoint_id}", self._pidfd)
        if self.control:
            notify.store(f"control.{self.endpoint_id}", self.control.fileno())

    async def terminate(self) -> None:
        """See :class:`UserEndpoint`."""
        await self._host.systemd.kill_unit(scope_name(self.endpoint_id), signal.SIGTERM)

    async def kill(self) -> None:
        """See :class:`UserEndpoint`."""
        await self._host.systemd.kill_unit(scope_name(self.endpoint_id), signal.SIGKILL)

    async def clean_up(self) -> End:
        """See :class:`UserEndpoint`."""
        scope = scope_name(self.endpoint_id)
        scope_end = await self._host.systemd.scope_result(scope)
        wait_status = await self._wait_status()
        # What it left behind serves nobody any more, and could hold a polite stop up for long.
        await self._host.systemd.clear_unit(scope)
        state = await self.control.last_state() if self.control else "running"
        result = scope_end.result if scope_end else "success"
        return judge(Evidence(state, wait_status, result, self.memory_limit))

    def let_go(self) -> None:
        """Close our descriptors, here and in the store; the process itself is not touched."""
        for name in ("pidfd", "control"):
            notify.remove_stored(f"{name}.{self.endpoint_id}")
        super().let_go()

    async def _wait_status(self) -> int | None:
        try:
            return await self._host.spawner.wait_status(self.endpoint_id, self.pid)
        except Problem as problem:
            log.warning("how process %d ended is not known: %s", self.pid, problem)
            return None


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
    on_end: OnEnd,
    *,
    past: Past,
) -> ScopedUserEndpoint:
    """Fork, place into a scope, release. Raises Problem; then nothing is left behind."""
    user, endpoint_id = approved.user, approved.record.start.endpoint_id
    document = launch_document(
        approved.record,
        settings,
        user,
        approved.identity.sub,
        manager_id=manager_id,
        state_directory=state_directory(user.uid, endpoint_id),
        past=past,
    )
    held = await _fork(approved, settings, host.spawner, document)
    endpoint = ScopedUserEndpoint(approved.record, user.uid, held, on_end, host)
    try:
        await _place(endpoint, user, settings, host)
    except BaseException:
        # The child hears the control socket close. Its scope, if there is one of that name, may be
        # another's.
        endpoint.let_go()
        raise
    try:
        endpoint.watch_memory(await host.systemd.control_group(scope_name(endpoint_id)))
        endpoint.keep_across_restarts()
        await _release(endpoint, host)
    except BaseException:
        endpoint.let_go()
        await host.systemd.clear_unit(scope_name(endpoint_id))
        raise
    return endpoint


async def _fork(
    approved: Approved, settings: ManagerSettings, spawner: SpawnerClient, document: bytes
) -> Held:
    """Have the spawner fork a child, which waits to be released."""
    start = approved.record.start
    spawn = Spawn(
        number=spawner.next_number(),
        endpoint_id=start.endpoint_id,
        name=start.name,
        user=approved.user,
        minimum_uid=settings.config.minimum_uid,
        no_new_privs=settings.config.no_new_privs,
        debug=settings.config.debug,
    )
    sealed = _sealed(document)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        forked = await spawner.spawn(spawn, sealed, theirs.fileno())
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(sealed)
    return Held(forked.pid, forked.pidfd, Control(start.endpoint_id, ours))


async def _place(
    endpoint: ScopedUserEndpoint,
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


async def _release(endpoint: ScopedUserEndpoint, host: Host) -> None:
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
