# SPDX-License-Identifier: Apache-2.0
"""Whose start commands a user's manager carries out: those of the user's own identities."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.hosting import Approved
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["authorize"]


def authorize(record: StartRecord, own: Collection[UUID], user: LocalUser) -> Approved:
    """Whether one of the command's identities is the owner's.

    Raises:
        Problem: none is (NO_PERMISSION). The services should not have sent it here.
    """
    identities = record.start.identities
    for identity in identities:
        if identity.sub in own:
            return Approved(record, identity, user)
    names = ", ".join(identity.username for identity in identities) or "none"
    raise Problem(
        "NOT_THE_OWNER",
        "this endpoint runs functions of the person alone who started it, and no identity of"
        f" yours ({names}) is theirs",
        "log in with an identity that is linked to the owner's, or use an endpoint of your own",
        ExitStatus.NO_PERMISSION,
    )
