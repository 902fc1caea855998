# SPDX-License-Identifier: Apache-2.0
"""Find the user endpoints which an earlier instance of this manager started; hold on to them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from uuid import UUID

from globus_compute_endpoint.host import notify
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.spawner_client import Forked, Tenant
from globus_compute_endpoint.manager.starts import StartRecords
from globus_compute_endpoint.manager.user_endpoint import Host, UserEndpoint
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.spawner.protocol import scope_name

__all__ = ["Adopted", "adopt_user_endpoints"]

log = logging.getLogger(__name__)

_PREFIX, _SUFFIX = scope_name(UUID(int=0)).split(str(UUID(int=0)))


Adopted = list[UserEndpoint]


async def adopt_user_endpoints(
    manager_unit: str,
    records: StartRecords,
    host: Host,
    on_end: Callable[[UserEndpoint], None],
) -> Adopted:
    """All that live, by their scopes and by the records which only root can fasten to them.

    Start records whose user endpoint is gone are removed: the web services ask again for one which
    has work. Descriptors of no use are closed.
    """
    kept = notify.stored()
    adopted = []
    for scope in await host.systemd.active_units(f"{_PREFIX}*{_SUFFIX}"):
        endpoint_id = _endpoint_id(scope)
        if endpoint_id is None:
            continue
        tenant = await _who_lives_in(scope, manager_unit, host)
        record = records.read(endpoint_id)
        if tenant is None:
            continue
        pidfd = _pidfd(tenant, kept.pop(f"pidfd.{endpoint_id}", None))
        if record is None or pidfd is None:
            log.warning("nobody knows what %s is for, stopping it", scope)
            await host.systemd.stop_unit(scope)
            continue
        control = _control(endpoint_id, kept.pop(f"control.{endpoint_id}", None))
        forked = Forked(tenant.record.pid, pidfd)
        adopted.append(UserEndpoint(record, tenant.record.uid, forked, control, on_end))
    _forget_the_rest(kept, records, {endpoint.endpoint_id for endpoint in adopted})
    return adopted


def _endpoint_id(scope: str) -> UUID | None:
    try:
        return UUID(scope.removeprefix(_PREFIX).removesuffix(_SUFFIX))
    except ValueError:
        return None


async def _who_lives_in(scope: str, manager_unit: str, host: Host) -> Tenant | None:
    """Whom this manager put into a scope; None where it is another manager's."""
    for pid in await host.systemd.processes_of(scope):
        try:
            tenant = await host.spawner.identify(pid)
        except Problem:  # that process has just ended
            continue
        return tenant if tenant and tenant.record.manager == manager_unit else None
    return None


def _pidfd(tenant: Tenant, kept: int | None) -> int | None:
    """Hold on to the main process; None where it is gone and nobody kept a descriptor."""
    if kept is not None:
        return kept
    try:
        return os.pidfd_open(tenant.record.pid) if tenant.is_alive else None
    except ProcessLookupError:
        return None


def _control(endpoint_id: UUID, kept: int | None) -> Control | None:
    return Control(endpoint_id, socket.socket(fileno=kept)) if kept is not None else None


def _forget_the_rest(kept: dict[str, int], records: StartRecords, adopted: set[UUID]) -> None:
    for name, descriptor in kept.items():
        os.close(descriptor)
        notify.remove_stored(name)
    for endpoint_id in records:
        if endpoint_id not in adopted:
            log.info("user endpoint %s is gone, forgetting its start record", endpoint_id)
            records.remove(endpoint_id)
