# SPDX-License-Identifier: Apache-2.0
"""Register an endpoint, for as long as it takes, and remember the id it was given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.endpoint_json import read_endpoint_id, write_endpoint_id
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, RegistrationRequest, WebServices

__all__ = ["Registrar", "manager_request"]

log = logging.getLogger(__name__)

_REGISTER_TIMEOUT_S = 90.0


class Registrar:
    """Registers with back-off while the services are away; gives up where no retry mends it.

    ``registered`` is the id which this instance has been given already.
    """

    def __init__(
        self,
        services: WebServices,
        request: RegistrationRequest,
        id_file: Path,
        registered: UUID | None = None,
    ) -> None:
        self._services = services
        self._request = request
        self._id_file = id_file
        self._registered = registered

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
                if self._registered is None:
                    write_endpoint_id(self._id_file, registration.endpoint_id)
                    self._registered = registration.endpoint_id
                return registration

    async def _once(self) -> Registration:
        known = self._registered or read_endpoint_id(self._id_file)
        request = replace(self._request, renewal=self._registered is not None)
        call = asyncio.to_thread(self._services.register, request, known)
        try:
            async with asyncio.timeout(_REGISTER_TIMEOUT_S):
                return await call
        except TimeoutError:
            raise Problem(
                "SERVICES_SLOW",
                f"no answer from the web services within {_REGISTER_TIMEOUT_S:.0f} s",
                exit_status=ExitStatus.TEMPORARY,
            ) from None


def manager_request(name: str, settings: ManagerSettings, config_yaml: Path) -> RegistrationRequest:
    """What the web services are told of a manager."""
    return RegistrationRequest(
        name=name,
        config=settings.config,
        multi_user=True,
        metadata={
            "endpoint_config": config_yaml.read_text(encoding="utf-8"),
            "user_config_template": settings.template,
            "user_config_schema": settings.schema,
        },
    )
