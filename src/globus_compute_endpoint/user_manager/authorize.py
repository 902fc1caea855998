# SPDX-License-Identifier: Apache-2.0
"""Whose start commands a user's manager carries out: those of the user's own identities."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.hosting import Approved
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["authorize", "identities_in"]


def identities_in(userinfo: Mapping[str, Any]) -> frozenset[UUID]:
    """The identity which logged in, and those linked to it.

    Raises:
        Problem: the sign-in service's answer does not tell (UNAVAILABLE).
    """
    try:
        linked = [each["sub"] for each in userinfo.get("identity_set") or ()]
        return frozenset(UUID(each) for each in [userinfo["sub"], *linked])
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(
            "USERINFO_MALFORMED",
            "the sign-in service's answer does not tell whose endpoint this is",
            "are these the right services, of a version that fits?",
            ExitStatus.UNAVAILABLE,
        ) from error


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
