# SPDX-License-Identifier: Apache-2.0
"""What managers send along with a user endpoint: all that it starts from, in one document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from globus_compute_endpoint.config.manager import ManagerSettings
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.starts import StartRecord

__all__ = ["Past", "launch_document", "manager_part"]


@dataclass(frozen=True)
class Past:
    """What became of the earlier user endpoint of the same id.

    ``interruption``: why it ended, if that was out of order. ``given_up``: it was given up, and
    the services have failed all tasks which it had.
    """

    interruption: str | None = None
    given_up: bool = False


def launch_document(
    record: StartRecord,
    settings: ManagerSettings,
    user: LocalUser,
    identity: UUID,
    *,
    manager_id: UUID,
    state_directory: Path | None = None,
    past: Past,
) -> bytes:
    """Our part, a newline, and the blob: options and credentials for the user's process alone.

    ``identity`` is the one that was found to be ``user``.
    """
    start, config = record.start, settings.config
    ours = {
        "endpoint_id": str(start.endpoint_id),
        "name": start.name,
        "manager_id": str(manager_id),
        "environment": settings.environment,
        "ca_certificates": settings.ca_certificates,
        "debug": config.debug,
        "state_directory": str(state_directory) if state_directory else None,
        "interruption": past.interruption,
        "given_up": past.given_up,
        **manager_part(settings, user, identity),
    }
    return json.dumps(ours).encode() + b"\n" + record.blob


def manager_part(settings: ManagerSettings, user: LocalUser, identity: UUID) -> dict[str, Any]:
    """What the configuration of a user endpoint is made from, besides the researcher's options."""
    config = settings.config
    return {
        "template": settings.template,
        "schema": settings.schema,
        "included": settings.included,
        "parent_config": config.for_templates(),
        "mapped_identity": {
            "local": {
                "uname": user.uname,
                "uid": user.uid,
                "gid": user.gid,
                "groups": list(user.groups),
                "gecos": user.gecos,
                "shell": user.shell,
                "dir": user.home,
            },
            "globus": {"id": str(identity)},
        },
        "amqp_port": config.amqp_port,
        "allowed_functions": [str(each) for each in config.allowed_functions]
        if config.allowed_functions is not None
        else None,
    }
