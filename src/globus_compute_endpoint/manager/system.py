# SPDX-License-Identifier: Apache-2.0
"""The system's hosting: identities are mapped to local users, who each get scopes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from globus_compute_endpoint.host.paths import state_directory
from globus_compute_endpoint.manager.authorize import authorize
from globus_compute_endpoint.manager.ends import HOST_RESTARTED, Evidence, judge
from globus_compute_endpoint.manager.hosting import Approved, OnEnd, Remnant, UserEndpoint
from globus_compute_endpoint.manager.in_force import InForce
from globus_compute_endpoint.manager.launching import Past
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.manager.user_endpoint import Host, slice_name, start_user_endpoint
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.spawner.protocol import scope_name

__all__ = ["SystemHosting"]


class SystemHosting:
    """See :class:`Hosting`."""

    def __init__(self, in_force: InForce, host: Host) -> None:
        self._in_force = in_force
        self._host = host

    async def authorize(self, record: StartRecord) -> Approved:
        """See :class:`Hosting`."""
        rules = self._in_force
        return await authorize(record, rules.mapping, self._host.spawner, rules.settings.config)

    async def start(
        self, approved: Approved, manager_id: UUID, on_end: OnEnd, past: Past
    ) -> UserEndpoint:
        """See :class:`Hosting`."""
        settings = self._in_force.settings
        return await start_user_endpoint(
            approved, settings, manager_id, self._host, on_end, past=past
        )

    async def remains(self, record: StartRecord) -> Remnant:
        """See :class:`Hosting`."""
        if record.uid is None:  # written before there were journals
            return Remnant(work=False)
        endpoint_id = record.start.endpoint_id
        work, wait_status = await self._host.spawner.remains(record.uid, endpoint_id)
        if record.boot is not None and record.boot != await self.boot():
            return Remnant(work, HOST_RESTARTED)
        return Remnant(work, judge(Evidence(wait_status=wait_status)).interruption)

    async def boot(self) -> str:
        """See :class:`Hosting`."""
        return await self._host.systemd.boot()

    def left_in(self, record: StartRecord) -> str:
        """See :class:`Hosting`."""
        return str(state_directory(record.uid or 0, record.start.endpoint_id))

    async def apply_limits(self, running: Sequence[UserEndpoint]) -> None:
        """Have the limits hold for user endpoints which run already.

        Raises Problem or OSError, the last one, once all have been tried.
        """
        control, systemd = self._in_force.settings.config.resource_control, self._host.systemd
        slices = {slice_name(endpoint.uid) for endpoint in running}
        scopes = {scope_name(endpoint.endpoint_id) for endpoint in running}
        wanted = {
            **dict.fromkeys(slices, control.user.all_properties()),
            **dict.fromkeys(scopes, control.endpoint.all_properties()),
        }
        failure = None
        for unit, properties in wanted.items():
            try:
                await systemd.set_properties(unit, properties)
            except (Problem, OSError) as error:
                failure = error
        if failure is not None:
            raise failure
