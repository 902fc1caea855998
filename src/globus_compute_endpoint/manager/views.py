# SPDX-License-Identifier: Apache-2.0
"""What a manager tells of its user endpoints, asking them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from globus_compute_endpoint.manager.hosting import UserEndpoint
from globus_compute_endpoint.overview import Overview, UserEndpointView

__all__ = ["overview_of"]

_PATIENCE_S = 3.0  # for all of them at once: one that hangs holds nobody up


async def overview_of(text: str, endpoints: Sequence[UserEndpoint]) -> Overview:
    """Return an overview, with the reports of those which answer in time."""
    views = await asyncio.gather(*(_view(each) for each in endpoints))
    return Overview(text=text, user_endpoints=tuple(views))


async def _view(endpoint: UserEndpoint) -> UserEndpointView:
    control = endpoint.control
    report = await control.report(_PATIENCE_S) if control else None
    memory, processes = endpoint.usage()
    return UserEndpointView(
        endpoint_id=endpoint.endpoint_id,
        uid=endpoint.uid,
        pid=endpoint.pid,
        state=control.last.state if control else "running",
        identity=endpoint.record.start.effective_identity,
        unit=endpoint.unit,
        memory=memory,
        processes=processes,
        report=report,
    )
