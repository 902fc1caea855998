# SPDX-License-Identifier: Apache-2.0
"""Groups with which functions are shared."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import click
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.cli.clients import in_transaction
from globus_compute_services.problem import Problem
from globus_compute_services.store.identities import find_identity
from globus_compute_services.store.schema import GroupMember, Identity

__all__ = ["group"]


@click.group()
def group() -> None:
    """Say who is a member of the groups that functions are shared with."""


@group.command("add")
@click.argument("group_id", type=click.UUID)
@click.argument("username")
@click.pass_obj
def add(config: Path, group_id: UUID, username: str) -> None:
    """Make USERNAME a member of GROUP_ID."""

    async def work(session: AsyncSession) -> None:
        identity = await _identity(session, username)
        await session.merge(GroupMember(group_id=group_id, identity_id=identity.id))

    in_transaction(config, work)


@group.command("remove")
@click.argument("group_id", type=click.UUID)
@click.argument("username")
@click.pass_obj
def remove(config: Path, group_id: UUID, username: str) -> None:
    """End USERNAME's membership in GROUP_ID."""

    async def work(session: AsyncSession) -> None:
        identity = await _identity(session, username)
        await session.execute(
            delete(GroupMember).where(
                GroupMember.group_id == group_id, GroupMember.identity_id == identity.id
            )
        )

    in_transaction(config, work)


async def _identity(session: AsyncSession, username: str) -> Identity:
    identity = await find_identity(session, username)
    if identity is None:
        raise Problem(f"There is no identity {username}", "create a client for it first")
    return identity
