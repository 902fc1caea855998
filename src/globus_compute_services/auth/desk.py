# SPDX-License-Identifier: Apache-2.0
"""What sign-in keeps in memory while the services run."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from globus_compute_services.auth.passwords import Passwords
from globus_compute_services.auth.signing import Signer
from globus_compute_services.auth.throttle import Throttle
from globus_compute_services.store.database import Database
from globus_compute_services.store.schema import SigningKey

__all__ = ["Desk", "open_desk"]


@dataclass(frozen=True)
class Desk:
    """Where people sign in."""

    signer: Signer
    passwords: Passwords
    throttle: Throttle


async def open_desk(database: Database) -> Desk:
    """With the key that ``init`` put into the database."""
    async with database.read() as session:
        key = (await session.scalars(select(SigningKey).order_by(SigningKey.created))).first()
    assert key is not None, "Database.upgrade made one"
    return Desk(Signer(key.id, key.private_key), Passwords(), Throttle())
