# SPDX-License-Identifier: Apache-2.0
"""The manager of an ordinary user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import Registration
from globus_compute_endpoint.user_endpoint.directory import EndpointDirectory

__all__ = ["UserManagerSettings", "serve_user_manager"]


@dataclass(frozen=True)
class UserManagerSettings:
    """What a user's manager is."""

    name: str
    directory: EndpointDirectory
    registration: Registration
    debug: bool
    process_title: str


def serve_user_manager(settings: UserManagerSettings, ready: Callable[[], None]) -> None:
    """Serve until told to stop, and tell when it is ``ready``."""
    del ready
    raise Problem(
        "NOT_YET",
        f"{settings.name} is a manager, which only systemd can start so far",
        "use: systemctl start globus-compute-endpoint@NAME",
        ExitStatus.CONFIGURATION,
    )
