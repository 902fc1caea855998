# SPDX-License-Identifier: Apache-2.0
"""Scopes and units through org.freedesktop.systemd1; see org.freedesktop.systemd1(5).

One connection per process, one event loop. Every call has a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from jeepney import DBusAddress, HeaderFields, MatchRule, Message
from jeepney.bus_messages import message_bus
from jeepney.wrappers import DBusErrorResponse

from globus_compute_endpoint.host.bus import Bus
from globus_compute_endpoint.problem import Problem

__all__ = ["Properties", "ScopeEnd", "ServiceManager"]

Properties = list[tuple[str, tuple[str, object]]]

_BUS_NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", _BUS_NAME, "org.freedesktop.systemd1.Manager")
_OWNER_CHANGED = MatchRule(
    type="signal",
    sender=message_bus.bus_name,
    interface="org.freedesktop.DBus",
    member="NameOwnerChanged",
)
_OWNER_CHANGED.add_arg_condition(0, _BUS_NAME)
_JOB_TIMEOUT_S = 30.0
_OWNER_TIMEOUT_S = 5.0
_GONE = ("NoSuchUnit", "UnitNotLoaded", "NoUnitForPID")


@dataclass(frozen=True)
class ScopeEnd:
    """What systemd says of a scope which ended: ``success``, ``timeout``, ``oom-kill``…"""

    result: str


def _failed(what: str, error: DBusErrorResponse) -> Problem:
    detail = error.data[0] if error.data else error.name
    return Problem(
        "SYSTEMD_REFUSED",
        f"systemd refused to {what}: {detail}",
        "see the journal of this unit and of PID 1",
    )


class ServiceManager:
    """PID 1, spoken to over the system bus; or a user's own, over that user's."""

    def __init__(self) -> None:
        self._bus: Bus
        self._owner = ""
        self._owner_found = asyncio.Event()
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._early_jobs: dict[str, str] = {}
        self._calls_awaiting_job = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, on_lost: Callable[[], None], *, address: str = "SYSTEM"
    ) -> AsyncIterator[ServiceManager]:
        """Connect to the system bus, or that at another D-Bus address.

        ``on_lost`` is called should the bus go away.
        """
        manager = cls()
        async with Bus.connect(address, manager._signal, on_lost) as bus:
            manager._bus = bus
            await bus.subscribe(_OWNER_CHANGED)
            await manager._find_owner()
            await bus.subscribe(
                MatchRule(
                    type="signal",
                    sender=_BUS_NAME,
                    interface=_MANAGER.interface,
                    member="JobRemoved",
                    path=_MANAGER.object_path,
                )
            )
            await manager._call("Subscribe")
            yield manager

    async def _find_owner(self) -> None:
        """A user's service manager comes to its bus only once that was asked for by someone."""
        try:
            (self._owner,) = await self._bus.call(message_bus, "GetNameOwner", "s", (_BUS_NAME,))
        except DBusErrorResponse as error:
            if not error.name.endswith("NameHasNoOwner"):
                raise
            async with asyncio.timeout(_OWNER_TIMEOUT_S):
                await self._owner_found.wait()

    async def start_scope(self, name: str, pid: int, properties: Properties) -> None:
        """Put ``pid`` into a new scope and return once it is there.

        The reply to StartTransientUnit comes before the process was moved; only JobRemoved
        says that it was.
        """
        full = [("PIDs", ("au", [pid])), *properties]
        body: tuple[Any, ...] = (name, "fail", full, [])
        try:
            job = await self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", body, f"start {name}")
        except DBusErrorResponse as error:
            raise _failed(f"start {name}", error) from error
        if job != "done":
            raise Problem("SCOPE_NOT_STARTED", f"systemd's job for {name} ended as '{job}'")

    async def stop_unit(self, name: str) -> None:
        """Stop a unit with all its processes; not an error where there is none."""
        try:
            await self._job("StopUnit", "ss", (name, "replace"), f"stop {name}")
        except DBusErrorResponse as error:
            if not error.name.endswith(_GONE):
                raise _failed(f"stop {name}", error) from error

    async def restart_unit(self, name: str) -> None:
        """Restart a unit which runs, and return when it is ready. Raises Problem."""
        what = f"restart {name}"
        try:
            job = await self._job("TryRestartUnit", "ss", (name, "replace"), what)
        except DBusErrorResponse as error:
            raise _failed(what, error) from error
        if job != "done":
            raise Problem("UNIT_NOT_RESTARTED", f"systemd's job to {what} ended as '{job}'")

    async def kill_unit(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a unit; not an error where there are none."""
        try:
            await self._call("KillUnit", "ssi", (name, "all", number))
        except DBusErrorResponse as error:
            if not error.name.endswith((*_GONE, "NoSuchProcess")):
                raise _failed(f"kill {name}", error) from error

    async def clear_unit(self, name: str) -> None:
        """Kill what is in a unit, and return when it is gone."""
        await self.kill_unit(name, signal.SIGKILL)
        await self.stop_unit(name)

    async def set_properties(self, unit: str, properties: Properties) -> None:
        """Set properties of a unit until the next boot; not an error where it is gone."""
        try:
            await self._call("SetUnitProperties", "sba(sv)", (unit, True, properties))
        except DBusErrorResponse as error:
            if not error.name.endswith(_GONE):
                raise _failed(f"set limits of {unit}", error) from error

    async def unit_of(self, pid: int) -> str | None:
        """The unit that a process belongs to; None where it is gone or in none."""
        try:
            (path,) = await self._call("GetUnitByPID", "u", (pid,))
            return str(await self._property(path, "org.freedesktop.systemd1.Unit", "Id"))
        except DBusErrorResponse as error:
            if error.name.endswith((*_GONE, "UnknownObject", "UnknownProperty")):
                return None
            raise _failed(f"name the unit of process {pid}", error) from error

    async def active_units(self, pattern: str) -> list[str]:
        """Names of units which match a glob and are not inactive."""
        (units,) = await self._call("ListUnitsByPatterns", "asas", ([], [pattern]))
        return [unit[0] for unit in units if unit[3] not in ("inactive", "failed")]

    async def processes_of(self, unit: str) -> list[int]:
        """The pids in a unit's control group, in no order."""
        try:
            (processes,) = await self._call("GetUnitProcesses", "s", (unit,))
        except DBusErrorResponse as error:
            if error.name.endswith(_GONE):
                return []
            raise _failed(f"list the processes of {unit}", error) from error
        return [process[1] for process in processes]

    async def scope_result(self, name: str) -> ScopeEnd | None:
        """How a scope ended or fares; None where systemd has forgotten it already."""
        try:
            (path,) = await self._call("GetUnit", "s", (name,))
            result = await self._property(path, "org.freedesktop.systemd1.Scope", "Result")
        except DBusErrorResponse:
            return None
        return ScopeEnd(str(result))

    async def control_group(self, scope: str) -> str | None:
        """Where a scope's processes are in the control group tree; None where it is gone."""
        try:
            (path,) = await self._call("GetUnit", "s", (scope,))
            group = await self._property(path, "org.freedesktop.systemd1.Scope", "ControlGroup")
        except DBusErrorResponse:
            return None
        return str(group) or None

    async def pending_job_type(self, unit: str) -> str | None:
        """``stop``, ``restart``… where systemd is just carrying out a job on ``unit``."""
        try:
            (path,) = await self._call("GetUnit", "s", (unit,))
            _, job = await self._property(path, "org.freedesktop.systemd1.Unit", "Job")
            if job == "/":
                return None
            return str(await self._property(job, "org.freedesktop.systemd1.Job", "JobType"))
        except DBusErrorResponse:
            return None

    async def boot(self) -> str:
        """What is different after each boot; /proc/sys, with the boot-id, is not for sandboxes."""
        path = _MANAGER.object_path
        return str(await self._property(path, _MANAGER.interface, "UserspaceTimestamp"))

    async def _call(self, method: str, signature: str = "", body: tuple[Any, ...] = ()) -> Any:
        return await self._bus.call(_MANAGER, method, signature, body)

    async def _property(self, path: str, interface: str, name: str) -> Any:
        address = DBusAddress(path, _BUS_NAME, "org.freedesktop.DBus.Properties")
        ((_, value),) = await self._bus.call(address, "Get", "ss", (interface, name))
        return value

    async def _job(self, method: str, signature: str, body: tuple[Any, ...], what: str) -> str:
        """Call a method which answers with a job, and wait for that job's result."""
        self._calls_awaiting_job += 1
        try:
            job: str
            (job,) = await self._call(method, signature, body)
            if job in self._early_jobs:
                return self._early_jobs.pop(job)
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._jobs[job] = ended
        finally:
            self._calls_awaiting_job -= 1
            if not self._calls_awaiting_job:
                self._early_jobs.clear()
        try:
            async with asyncio.timeout(_JOB_TIMEOUT_S):
                return await ended
        except TimeoutError:
            raise Problem(
                "SYSTEMD_TIMEOUT", f"systemd did not {what} within {_JOB_TIMEOUT_S:.0f} s"
            ) from None
        finally:
            self._jobs.pop(job, None)

    def _signal(self, message: Message) -> None:
        """Sort signals; any user of the bus can send us some, straight to our address."""
        fields = message.header.fields
        sender, member = fields.get(HeaderFields.sender), fields.get(HeaderFields.member)
        signature = fields.get(HeaderFields.signature)
        if sender == message_bus.bus_name and (member, signature) == ("NameOwnerChanged", "sss"):
            name, _, new = message.body
            if name == _BUS_NAME:  # systemd executed itself anew
                self._owner = new
                self._owner_found.set()
        elif sender == self._owner and (member, signature) == ("JobRemoved", "uoss"):
            self._job_removed(message)

    def _job_removed(self, message: Message) -> None:
        _, path, _, result = message.body
        ended = self._jobs.get(path)
        if ended and not ended.done():
            ended.set_result(result)
        elif self._calls_awaiting_job:  # the signal may overtake the task which awaits the reply
            self._early_jobs[path] = result
