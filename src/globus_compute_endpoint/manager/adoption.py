# SPDX-License-Identifier: Apache-2.0
"""Find the user endpoints which an earlier instance of this manager started; hold on to them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from globus_compute_endpoint.host import notify
from globus_compute_endpoint.manager.control import Control
from globus_compute_endpoint.manager.hosting import Held, OnEnd
from globus_compute_endpoint.manager.spawner_client import Tenant
from globus_compute_endpoint.manager.starts import StartRecord, StartRecords
from globus_compute_endpoint.manager.user_endpoint import Host, ScopedUserEndpoint
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.spawner.protocol import scope_name

__all__ = ["adopt_user_endpoints"]

log = logging.getLogger(__name__)

_PREFIX, _SUFFIX = scope_name(UUID(int=0)).split(str(UUID(int=0)))


async def adopt_user_endpoints(
    manager_unit: str,
    records: StartRecords,
    host: Host,
    *,
    adopt: OnEnd,
    on_end: OnEnd,
    resume: Callable[[StartRecord, str | None], None],
) -> None:
    """Call ``adopt`` for each that lives, by the scopes there are and the records that only root
    can fasten to them, and ``resume`` for each which has a start record alone.

    Raises Problem where it cannot be told who lives; then nothing was given up.
    """
    kept = notify.stored()
    scopes = await host.systemd.active_units(f"{_PREFIX}*{_SUFFIX}")
    tenants = {scope: await _who_lives_in(scope, manager_unit, host) for scope in scopes}
    spoken_for = set()
    for scope, tenant in tenants.items():
        endpoint_id = _endpoint_id(scope)
        if endpoint_id is None or tenant is None or tenant.record.endpoint_id != endpoint_id:
            continue
        group = await host.systemd.control_group(scope)
        record = records.read(endpoint_id)
        held = None if record is None else _hold(endpoint_id, tenant, kept)
        if record is None or held is None:
            log.warning("%s has lost its main process, or its start record: stopping it", scope)
            await host.systemd.clear_unit(scope)
        else:
            spoken_for.add(endpoint_id)
            uid = tenant.record.uid
            endpoint = ScopedUserEndpoint(replace(record, uid=uid), uid, held, on_end, host)
            endpoint.watch_memory(group)
            adopt(endpoint)  # in the same turn of the loop: its end can be told from now on
    _close(kept)
    for endpoint_id in set(records) - spoken_for:
        if record := records.read(endpoint_id):
            resume(record, None)
        else:
            records.remove(endpoint_id)


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
        except Problem as problem:
            if problem.code != "SPAWNER_FAILED":  # not this process's end, but the spawner's
                raise
            continue
        return tenant if tenant and tenant.record.manager == manager_unit else None
    return None


def _hold(endpoint_id: UUID, tenant: Tenant, kept: dict[str, int]) -> Held | None:
    """Hold on to the main process; None where it is gone and nobody kept a descriptor."""
    control = kept.pop(f"control.{endpoint_id}", None)
    pidfd = kept.pop(f"pidfd.{endpoint_id}", None)
    try:
        if pidfd is None and tenant.is_alive:
            pidfd = os.pidfd_open(tenant.record.pid)
    except ProcessLookupError:
        log.info("user endpoint %s has just ended", endpoint_id)
    if pidfd is not None:
        talk = None if control is None else Control(endpoint_id, socket.socket(fileno=control))
        return Held(tenant.record.pid, pidfd, talk)
    if control is not None:
        os.close(control)
        notify.remove_stored(f"control.{endpoint_id}")
    return None


def _close(kept: dict[str, int]) -> None:
    for name, descriptor in kept.items():
        os.close(descriptor)
        notify.remove_stored(name)
