# SPDX-License-Identifier: Apache-2.0
"""The system's hosting: identities are mapped to local users, who each get scopes of their own."""

from __future__ import annotations

from uuid import UUID

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.manager.authorize import authorize
from globus_compute_endpoint.manager.hosting import Approved, OnEnd, UserEndpoint
from globus_compute_endpoint.manager.mapping import IdentityMapping
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.manager.user_endpoint import Host, start_user_endpoint

__all__ = ["SystemHosting"]


class SystemHosting:
    """See :class:`Hosting`."""

    def __init__(self, settings: ManagerSettings, mapping: IdentityMapping, host: Host) -> None:
        self._settings = settings
        self._mapping = mapping
        self._host = host

    async def authorize(self, record: StartRecord) -> Approved:
        """See :class:`Hosting`."""
        return await authorize(record, self._mapping, self._host.spawner, self._settings.config)

    async def start(self, approved: Approved, manager_id: UUID, on_end: OnEnd) -> UserEndpoint:
        """See :class:`Hosting`."""
        return await start_user_endpoint(approved, self._settings, manager_id, self._host, on_end)
