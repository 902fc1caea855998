# SPDX-License-Identifier: Apache-2.0
"""Whether a start command may be carried out, and as which local user."""

from __future__ import annotations

from globus_compute_endpoint.config.manager import ManagerConfig
from globus_compute_endpoint.host.privileges import LocalUser
from globus_compute_endpoint.manager.hosting import Approved
from globus_compute_endpoint.manager.mapping import IdentityMapping
from globus_compute_endpoint.manager.spawner_client import SpawnerClient
from globus_compute_endpoint.manager.starts import StartRecord
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["authorize"]


async def authorize(
    record: StartRecord, mapping: IdentityMapping, spawner: SpawnerClient, config: ManagerConfig
) -> Approved:
    """Map the command's identities to a local user who may use this endpoint.

    Raises Problem, worded for the user: it tells nothing that only the administrator should see.
    """
    identities = record.start.identities
    mapped = mapping.map(identities)
    if mapped is None:
        names = ", ".join(identity.username for identity in identities) or "none"
        raise _refused(
            "IDENTITY_NOT_MAPPED",
            f"no identity of yours ({names}) is mapped to a local user of this endpoint",
            "ask the endpoint's administrator to map you, or log in with another identity",
        )
    user = await spawner.look_up(mapped.uname)
    if user is None:
        raise _refused(
            "LOCAL_USER_MISSING",
            f"{mapped.identity.username} is mapped to local user '{mapped.uname}',"
            " who does not exist here",
            "ask the endpoint's administrator to create the account",
        )
    _check(user, config)
    return Approved(record, mapped.identity, user)


def _check(user: LocalUser, config: ManagerConfig) -> None:
    if user.uid < config.minimum_uid or user.gid == 0 or 0 in user.groups:
        who = "root" if user.uid == 0 else f"'{user.uname}', a system account"
        raise _refused(
            "LOCAL_USER_REFUSED",
            f"you are mapped to {who}, as whom this endpoint runs nothing",
            "ask the endpoint's administrator to map you to an account of your own",
        )
    if config.allowed_users is None and config.allowed_groups is None:
        return
    in_group = bool((config.allowed_groups or frozenset()) & set(user.group_names))
    if user.uname not in (config.allowed_users or ()) and not in_group:
        raise _refused(
            "LOCAL_USER_NOT_ALLOWED",
            f"local user '{user.uname}' may not use this endpoint",
            "ask the endpoint's administrator to allow the user or one of its groups",
        )


def _refused(code: str, message: str, hint: str) -> Problem:
    return Problem(code, message, hint, ExitStatus.NO_PERMISSION)
