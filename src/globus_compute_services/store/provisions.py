# SPDX-License-Identifier: Apache-2.0
"""The rows which each database holds: the SDK's public client, and the key of id tokens."""

from __future__ import annotations

import asyncio
import secrets
import time
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.credentials import new_signing_key
from globus_compute_services.store.schema import Client, Identity, SigningKey

__all__ = ["PUBLIC_CLIENT", "provide"]

# The id with which the SDK, and whoever uses its login, asks for tokens of people.
PUBLIC_CLIENT = UUID("4cf29807-cf21-49ec-9443-ff9a3fb9f81c")
_PUBLIC_NAME = "Globus Compute SDK"


async def provide(session: AsyncSession) -> None:
    """Add what is missing; what is there is left alone."""
    if await session.get(Client, PUBLIC_CLIENT) is None:
        await _add_public_client(session)
    if await session.scalar(select(SigningKey.id)) is None:
        private_key = await asyncio.to_thread(new_signing_key)
        session.add(
            SigningKey(id=secrets.token_hex(8), private_key=private_key, created=time.time())
        )


async def _add_public_client(session: AsyncSession) -> None:
    now = time.time()
    name = _PUBLIC_NAME
    while await session.scalar(select(Client.id).where(Client.name == name)):
        name += " (sign-in)"  # an older program let people take that name for clients of theirs
    session.add(
        Identity(
            id=PUBLIC_CLIENT,
            account=PUBLIC_CLIENT,
            username=f"{PUBLIC_CLIENT}@clients",
            name=_PUBLIC_NAME,
            email="",
            organization="",
            created=now,
        )
    )
    await session.flush()
    session.add(
        Client(
            id=PUBLIC_CLIENT,
            name=name,
            identity_id=PUBLIC_CLIENT,
            secret_hash="",
            created=now,
        )
    )
