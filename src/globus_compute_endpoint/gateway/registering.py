# SPDX-License-Identifier: Apache-2.0
"""Register the manager endpoint, for as long as it takes, and remember the id it was given."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.backoff import Backoff
from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration, RegistrationRequest, WebServices

__all__ = ["Registrar", "read_endpoint_id"]

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


def read_endpoint_id(path: Path) -> UUID | None:
    """The id in ``endpoint.json``; None before the first registration. Raises Problem."""
    try:
        return UUID(json.loads(path.read_text())["endpoint_id"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(
            "ENDPOINT_ID_UNREADABLE",
            f"{path} does not tell the endpoint's id: {error}",
            "restore it, or remove it to register as a new endpoint",
            ExitStatus.DATA,
        ) from error


def write_endpoint_id(path: Path, endpoint_id: UUID) -> None:
    """Write ``endpoint.json`` in one step."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"endpoint_id": str(endpoint_id)}) + "\n")
    temporary.replace(path)
