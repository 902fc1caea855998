# SPDX-License-Identifier: Apache-2.0
"""The services' database as an older or a newer program would have left it."""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.schema import CreateTable

from globus_compute_services.store.database import Database
from globus_compute_services.store.schema import Base

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
        if version < 3 and session.get_bind().dialect.name == "sqlite":
            connection = await session.connection()
            await connection.run_sync(_reuse_ids)
        if version == 1:
            for table in NEW_IN_2:
                await session.execute(text(f"DROP TABLE {table}"))
            await session.execute(text("DELETE FROM clients WHERE secret_hash = ''"))
            await session.execute(text("DELETE FROM identities WHERE username LIKE '%@clients'"))
        await session.execute(text(f"UPDATE schema_info SET version = {version}"))


def _reuse_ids(connection: Connection) -> None:
    """Make the outbox as it was before version 3, with nothing in it."""
    outbox = Base.metadata.tables["outbox"]
    outbox.drop(connection)
    statement = str(CreateTable(outbox).compile(connection))
    connection.execute(text(statement.replace(" AUTOINCREMENT", "")))
    for index in outbox.indexes:
        index.create(connection)
