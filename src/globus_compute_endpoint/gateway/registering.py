# SPDX-License-Identifier: Apache-2.0
"""Register the manager endpoint, for as long as it takes, and remember the id it was given."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.endpoint_json import read_endpoint_id, write_endpoint_id
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, RegistrationRequest, WebServices

__all__ = ["Registrar"]

log = logging.getLogger(__name__)

_REGISTER_TIMEOUT_S = 90.0


class Registrar:
    """Registers with back-off while the services are away; gives up where no retry mends it."""

    def __init__(self, paths: EndpointPaths, settings: ManagerSettings) -> None:
        _require_credentials(paths)
        self._paths = paths
        self._services = WebServices(settings.config)
        self._request = RegistrationRequest(
            name=paths.name,
            config=settings.config,
            multi_user=True,
            metadata={
                "endpoint_config": paths.config_yaml.read_text(encoding="utf-8"),
                "user_config_template": settings.template,
                "user_config_schema": settings.schema,
            },
        )

    async def register(self, on_failure: Callable[[Problem], None]) -> Registration:
        """Until it worked. Raises Problem for a refusal; tells ``on_failure`` of each failure."""
        backoff = Backoff()
        while True:
            try:
                registration = await self._once()
            except Problem as problem:
                if problem.exit_status != ExitStatus.TEMPORARY:
                    raise
                on_failure(problem)
                await asyncio.sleep(backoff.next())
            else:
                write_endpoint_id(self._paths.registration, registration.endpoint_id)
                return registration

    async def _once(self) -> Registration:
        known = read_endpoint_id(self._paths.registration)
        call = asyncio.to_thread(self._services.register, self._request, known)
        try:
            async with asyncio.timeout(_REGISTER_TIMEOUT_S):
                return await call
        except TimeoutError:
            raise Problem(
                "SERVICES_SLOW",
                f"no answer from the web services within {_REGISTER_TIMEOUT_S:.0f} s",
                exit_status=ExitStatus.TEMPORARY,
            ) from None


def _require_credentials(paths: EndpointPaths) -> None:
    if not os.environ.get("GLOBUS_COMPUTE_CLIENT_ID"):
        raise Problem(
            "CREDENTIALS_MISSING",
            f"endpoint {paths.name} has no client identity to register with",
            "write GLOBUS_COMPUTE_CLIENT_ID= and GLOBUS_COMPUTE_CLIENT_SECRET= into"
            f" {paths.configuration / 'gateway.env'}",
            ExitStatus.NO_PERMISSION,
        )
