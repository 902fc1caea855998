# SPDX-License-Identifier: Apache-2.0
"""The services' database as an older or a newer program would have left it."""

from __future__ import annotations

from sqlalchemy import text

from globus_compute_services.store.database import Database

NEW_IN_2 = (
    "refresh_tokens",
    "authorization_codes",
    "consents",
    "sign_in_sessions",
    "local_accounts",
    "signing_keys",
)


async def as_version(database: Database, version: int) -> None:
    """Turn an up-to-date database into one of that version."""
    async with database.write() as session:
        if version == 1:
            for table in NEW_IN_2:
                await session.execute(text(f"DROP TABLE {table}"))
            await session.execute(text("DELETE FROM clients WHERE secret_hash = ''"))
            await session.execute(text("DELETE FROM identities WHERE username LIKE '%@clients'"))
        await session.execute(text(f"UPDATE schema_info SET version = {version}"))
