# SPDX-License-Identifier: Apache-2.0
"""A user's own user endpoints: processes in sessions of their own, in scopes if there are any."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from jeepney.wrappers import DBusErrorResponse

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host.paths import holds_work
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.host.processes import ProcessIdentity, send_signal, this_machine
from globus_compute_endpoint.host.systemd import Properties, ServiceManager
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.ends import HOST_RESTARTED, End, Evidence, judge
from globus_compute_endpoint.manager.hosting import (
    Approved,
    Held,
    OnEnd,
    Remnant,
    UserEndpoint,
)
from globus_compute_endpoint.manager.launching import Past, launch_document
from globus_compute_endpoint.manager.protocol import Start
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.spawner.protocol import scope_name
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory
from globus_compute_endpoint.user_endpoint.leftovers import INSTANCE_MARK, end_leftovers
from globus_compute_endpoint.user_manager.authorize import authorize
from globus_compute_endpoint.user_manager.processes import ProcessRecord, ProcessRecords

__all__ = ["OwnHosting", "OwnUserEndpoint"]

log = logging.getLogger(__name__)

_HOME_TIMEOUT_S = 30.0
_BUS_ERRORS = (Problem, DBusErrorResponse, OSError)  # of which TimeoutError is one
# A user endpoint must outlive us, and needs none of our rights with the web services.
_NOT_INHERITED = (INSTANCE_MARK, "GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET")


class OwnUserEndpoint(UserEndpoint):
    """A user endpoint of the manager's own user. ``child`` is None for an adopted one."""

    def __init__(
        self,
        record: StartRecord,
        held: Held,
        on_end: OnEnd,
        keeping: Keeping,
        *,
        process: ProcessRecord,
        child: subprocess.Popen[bytes] | None = None,
    ) -> None:
        super().__init__(record, os.getuid(), held, on_end)
        self._keeping = keeping
        self.unit = process.scope
        self._instance = process.instance
        self._child = child

    async def terminate(self) -> None:
        """See :class:`UserEndpoint`."""
        send_signal(self._pidfd, signal.SIGTERM)

    async def kill(self) -> None:
        """See :class:`UserEndpoint`."""
        self._kill_session()
        send_signal(self._pidfd, signal.SIGKILL)
        await self._clear_scope()

    async def clean_up(self) -> End:
        """See :class:`UserEndpoint`."""
        result = "success"
        if self.unit and self._keeping.scopes:
            with contextlib.suppress(*_BUS_ERRORS):
                scope_end = await self._keeping.scopes.scope_result(self.unit)
                result = scope_end.result if scope_end else result
        self._kill_session()
        await self._clear_scope()
        await self._end_leftovers()
        state = await self.control.last_state() if self.control else "running"
        return judge(Evidence(state, self._wait_status(), result, self.memory_limit))

    def let_go(self) -> None:
        """Close our descriptors, and forget the process, which has ended."""
        self._keeping.processes.remove(self.endpoint_id)
        super().let_go()

    def _wait_status(self) -> int | None:
        """As waitpid(2) gives it; None where we are not its parent."""
        if self._child is None:
            return None
        code = self._child.wait()
        return -code if code < 0 else code << 8

    def _kill_session(self) -> None:
        # Nobody else can have the group's number as long as we have not reaped its leader.
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _end_leftovers(self) -> None:
        """What was in neither scope nor group of ours, or of a manager before us."""
        if self._instance is not None:
            await asyncio.to_thread(end_leftovers, self._instance, self.pid)

    async def _clear_scope(self) -> None:
        if self.unit and self._keeping.scopes:
            try:
                await self._keeping.scopes.clear_unit(self.unit)
            except _BUS_ERRORS as error:
                log.warning("cannot clear %s: %s", self.unit, error)


@dataclass
class Keeping:
    """Where user endpoints are kept: in the books, and in scopes while there is a user bus."""

    processes: ProcessRecords
    scopes: ServiceManager | None = None

    def lose_scopes(self) -> None:
        """Go on with plain processes."""
        log.warning("the user bus went away; new user endpoints are plain processes")
        self.scopes = None


class OwnHosting:
    """See :class:`Hosting`. ``load`` reads the manager's files as they are by then."""

    def __init__(
        self,
        load: Callable[[], ManagerSettings],
        user: LocalUser,
        own: Collection[UUID],
        keeping: Keeping,
    ) -> None:
        self._load = load
        self._user = user
        self._own = own
        self._keeping = keeping

    async def authorize(self, record: StartRecord) -> Approved:
        """See :class:`Hosting`."""
        return authorize(record, self._own, self._user)

    async def start(
        self, approved: Approved, manager_id: UUID, on_end: OnEnd, past: Past
    ) -> UserEndpoint:
        """See :class:`Hosting`.

        The process waits for its document, so it does nothing before it is in its scope and in the
        books; should we end before that, it reads nothing and ends too.
        """
        record, start = approved.record, approved.record.start
        settings = await asyncio.to_thread(self._load)
        document = launch_document(
            record,
            settings,
            approved.user,
            approved.identity.sub,
            manager_id=manager_id,
            past=past,
        )
        instance = uuid.uuid4()
        with contextlib.ExitStack() as undo:
            address = f"globus-compute-{start.endpoint_id}-{secrets.token_hex(8)}"
            child, held = _spawn(start, self._user, address, instance)
            undo.callback(self._give_up, start.endpoint_id, child, held)
            scope = await self._place(start.endpoint_id, child.pid, settings)
            process = ProcessRecord.of(ProcessIdentity.of(child.pid), scope, address, instance)
            self._keeping.processes.write(start.endpoint_id, process)
            await _hand_over(child, document)
            undo.pop_all()
        endpoint = OwnUserEndpoint(
            record, held, on_end, self._keeping, process=process, child=child
        )
        if scope is not None and self._keeping.scopes:
            with contextlib.suppress(*_BUS_ERRORS):
                endpoint.watch_memory(await self._keeping.scopes.control_group(scope))
        return endpoint

    async def remains(self, record: StartRecord) -> Remnant:
        """See :class:`Hosting`."""
        directory = EndpointDirectory.of(record.start.name).path
        try:
            async with asyncio.timeout(_HOME_TIMEOUT_S):
                work = await asyncio.to_thread(holds_work, directory)
        except OSError as error:  # of which TimeoutError is one
            raise Problem(
                "HOME_AWAY",
                f"cannot look into {directory}: {error.strerror or 'no answer'}",
                exit_status=ExitStatus.TEMPORARY,
            ) from error
        restarted = record.boot is not None and record.boot != await self.boot()
        return Remnant(work, HOST_RESTARTED if restarted else judge(Evidence()).interruption)

    async def boot(self) -> str:
        """See :class:`Hosting`."""
        return this_machine().boot_id

    def left_in(self, record: StartRecord) -> str:
        """See :class:`Hosting`."""
        return str(EndpointDirectory.of(record.start.name).path)

    def _give_up(self, endpoint_id: UUID, child: subprocess.Popen[bytes], held: Held) -> None:
        child.kill()
        child.wait()
        os.close(held.pidfd)
        assert held.control is not None
        held.control.close()
        self._keeping.processes.remove(endpoint_id)

    async def _place(self, endpoint_id: UUID, pid: int, settings: ManagerSettings) -> str | None:
        """Put a process into a scope with its limits; the scope's name, None without."""
        if self._keeping.scopes is None:
            return None
        name = scope_name(endpoint_id)
        properties: Properties = [
            ("Description", ("s", f"Globus Compute user endpoint {endpoint_id}")),
            ("CollectMode", ("s", "inactive-or-failed")),
            ("KillMode", ("s", "control-group")),
            *settings.config.resource_control.endpoint.properties(),
        ]
        try:
            await self._keeping.scopes.start_scope(name, pid, properties)
        except _BUS_ERRORS as error:
            log.warning("user endpoint %s is a plain process: %s", endpoint_id, error)
            return None
        return name


def _spawn(
    start: Start, user: LocalUser, address: str, instance: UUID
) -> tuple[subprocess.Popen[bytes], Held]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, listener, contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        try:
            listener.bind("\0" + address)
            listener.listen(1)
            environment = {INSTANCE_MARK: str(instance)}
            child = _popen(start.name, user, theirs.fileno(), listener.fileno(), environment)
            pidfd = os.pidfd_open(child.pid)
        except OSError as error:
            raise Problem(
                "CANNOT_START",
                f"cannot start a process: {error.strerror}",
                "check the limits and the quota of the account which runs the endpoint",
                ExitStatus.TEMPORARY,
            ) from error
        undo.pop_all()
    return child, Held(child.pid, pidfd, Control(start.endpoint_id, ours))


def _popen(
    name: str, user: LocalUser, control: int, listen: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    directory = EndpointDirectory.of(name)
    directory.make()
    command = [sys.executable, "-P", "-m", "globus_compute_endpoint", "_start-user-endpoint"]
    with directory.log.open("ab") as output:
        return subprocess.Popen(
            [*command, name, "--control", str(control), "--listen", str(listen)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=user.home if Path(user.home).is_dir() else "/",
            env={key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
            | environment,
            start_new_session=True,
            pass_fds=[control, listen],
        )


async def _hand_over(child: subprocess.Popen[bytes], document: bytes) -> None:
    """Write all of it; one that does not read is ended by our caller's time-out."""
    assert child.stdin is not None
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(_Draining, child.stdin)
    try:
        transport.write(document)
        transport.write_eof()
        await protocol.closed
    except BaseException:
        transport.abort()
        raise


class _Draining(asyncio.BaseProtocol):
    """Tells when all has been written, or can no longer be."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (its pidfd tells why)
        if not self.closed.done():
            self.closed.set_result(None)
