# SPDX-License-Identifier: Apache-2.0
"""The database: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, delete, event, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.store.provisions import provide
from globus_compute_services.store.schema import Base, Outbox, SchemaInfo

__all__ = ["SCHEMA_VERSION", "Database"]

SCHEMA_VERSION = 3
_SQLITE_BUSY_MS = 10_000


class Database:
    """Short transactions over one engine.

    The services are one process. Writers take turns here, so that no statement has to be written
    for two of them racing; readers do not wait.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session which sees one consistent state and writes nothing."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed at the end of the block, rolled back by an exception."""
        async with (
            self._writing,
            self._engine.connect() as connection,
            AsyncSession(
                await connection.execution_options(gc_writes=True), expire_on_commit=False
            ) as session,
            session.begin(),
        ):
            yield session

    async def create(self) -> None:
        """Make what is missing of the tables and of the rows which must be there.

        Tables of an older version become those of this one. Raises Problem if the database cannot
        be opened or was made by a newer program.
        """
        try:
            async with self.write() as session:
                connection = await session.connection()
                await connection.run_sync(_make_tables)
                info = await session.scalar(select(SchemaInfo))
                if info is not None and info.version > SCHEMA_VERSION:
                    raise _wrong_version(info.version)
                await session.execute(delete(SchemaInfo))
                session.add(SchemaInfo(version=SCHEMA_VERSION))
                await provide(session)
        except (SQLAlchemyError, OSError) as error:
            raise _unusable(error) from error

    async def upgrade(self) -> None:
        """Bring the tables up to date; raises Problem if there are none, or newer ones."""
        if await self._version() != SCHEMA_VERSION:
            await self.create()

    async def check(self) -> None:
        """Raise Problem unless the tables are there in the version that this program knows."""
        version = await self._version()
        if version != SCHEMA_VERSION:
            raise _wrong_version(version)

    async def _version(self) -> int | None:
        try:
            async with self.read() as session:
                return await session.scalar(select(SchemaInfo.version))
        except (SQLAlchemyError, OSError) as error:
            raise _unusable(error) from error

    async def close(self) -> None:
        await self._engine.dispose()


def _make_tables(connection: Connection) -> None:
    """Make the tables which are missing, and anew the outbox of SQLite before version 3.

    Version 2 added tables only; version 3 has an outbox whose ids are used once.
    """
    outbox = Base.metadata.tables[Outbox.__tablename__]
    made = connection.dialect.name == "sqlite" and connection.scalar(
        text("SELECT sql FROM sqlite_schema WHERE name = 'outbox'")
    )
    if not made or "AUTOINCREMENT" in made:
        Base.metadata.create_all(connection)
        return
    columns = ", ".join(column.name for column in outbox.columns)
    for index in outbox.indexes:
        index.drop(connection)
    connection.execute(text("ALTER TABLE outbox RENAME TO old_outbox"))
    Base.metadata.create_all(connection)
    connection.execute(text(f"INSERT INTO outbox ({columns}) SELECT {columns} FROM old_outbox"))  # noqa: S608 (our own names)
    connection.execute(text("DROP TABLE old_outbox"))


def _engine(url: str) -> AsyncEngine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_async_engine(url, pool_pre_ping=True)
    engine = create_async_engine(url)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes too late and is always deferred.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"busy_timeout = {_SQLITE_BUSY_MS}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction which reads first and then writes fails at once if the command
        # line wrote in between; an immediate one waits its turn.
        writes = connection.get_execution_options().get("gc_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _unusable(error: Exception) -> Problem:
    cause = str(getattr(error, "orig", None) or error).splitlines()[0]
    return Problem(
        f"The database cannot be used: {cause}",
        "run: globus-compute-services init; see database_url in config.yaml",
        ExitStatus.UNAVAILABLE,
    )


def _wrong_version(version: int | None) -> Problem:
    newer = version is not None and version > SCHEMA_VERSION
    return Problem(
        f"The database holds tables of version {version}, this program needs {SCHEMA_VERSION}",
        "install the version of globus-compute-services which made it"
        if newer
        else "run: globus-compute-services init",
        ExitStatus.CONFIGURATION,
    )
