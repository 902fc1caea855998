# SPDX-License-Identifier: Apache-2.0
"""Databases which an older or a newer program made."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, text

from globus_compute_services.problem import Problem
from globus_compute_services.store.database import SCHEMA_VERSION, Database
from globus_compute_services.store.identities import create_client, list_clients
from globus_compute_services.store.schema import Client, Outbox, OutboxKind, SigningKey
from support.databases import as_version

PUBLIC = UUID("4cf29807-cf21-49ec-9443-ff9a3fb9f81c")


async def _made(path: Path) -> Database:
    database = Database(f"sqlite+aiosqlite:///{path}/services.sqlite3")
    await database.create()
    async with database.write() as session:
        await create_client(session, "old", "alice@example.org", None)
    return database


def test_an_older_database_is_brought_up_to_date(tmp_path: Path):
    async def run() -> None:
        database = await _made(tmp_path)
        await as_version(database, 1)
        with pytest.raises(Problem, match="globus-compute-services init"):
            await database.check()
        await database.upgrade()
        await database.check()
        async with database.read() as session:
            assert [client.name for client, _ in await list_clients(session)] == ["old"]
            assert (await session.get_one(Client, PUBLIC)).is_public
        await database.close()

    asyncio.run(run())


def test_what_an_older_program_left_to_send_is_sent(tmp_path: Path):
    async def run() -> None:
        database = await _made(tmp_path)
        await as_version(database, 2)
        old = await _add_to_outbox(database)
        await database.upgrade()
        async with database.write() as session:
            assert [row.body for row in await session.scalars(select(Outbox))] == [b"old"]
            await session.execute(delete(Outbox))
        # An id is that of one message for ever.
        assert await _add_to_outbox(database) > old
        await database.close()

    asyncio.run(run())


async def _add_to_outbox(database: Database) -> int:
    async with database.write() as session:
        row = Outbox(
            kind=OutboxKind.TASK, queue="q", task_id=uuid4(), headers={}, body=b"old", size=3
        )
        session.add(row)
        await session.flush()
        return row.id


def test_a_client_that_has_our_name_does_not_stop_an_upgrade(tmp_path: Path):
    async def run() -> None:
        database = await _made(tmp_path)
        await as_version(database, 1)
        async with database.write() as session:
            await create_client(session, "Globus Compute SDK", "bob@example.org", None)
        await database.upgrade()
        async with database.read() as session:
            assert len(await list_clients(session)) == 2
            assert (await session.get_one(Client, PUBLIC)).is_public
        await database.close()

    asyncio.run(run())


def test_the_signing_key_stays(tmp_path: Path):
    async def run() -> None:
        database = await _made(tmp_path)
        keys = []
        for _ in range(2):
            async with database.read() as session:
                keys.append(await session.get_one(SigningKey, await _only_key(database)))
            await database.create()
        assert keys[0].private_key == keys[1].private_key
        await database.close()

    asyncio.run(run())


async def _only_key(database: Database) -> str:
    async with database.read() as session:
        rows = await session.execute(text("SELECT id FROM signing_keys"))
    return str(rows.scalar_one())


@pytest.mark.parametrize("way", ["check", "upgrade", "create"])
def test_a_newer_database_is_left_alone(tmp_path: Path, way: str):
    async def run() -> None:
        database = await _made(tmp_path)
        await as_version(database, SCHEMA_VERSION + 1)
        with pytest.raises(Problem, match="install the version"):
            await getattr(database, way)()
        await database.close()

    asyncio.run(run())


def test_no_tables_are_no_old_tables(tmp_path: Path):
    async def run() -> None:
        database = Database(f"sqlite+aiosqlite:///{tmp_path}/services.sqlite3")
        with pytest.raises(Problem, match="globus-compute-services init"):
            await database.upgrade()
        await database.close()

    asyncio.run(run())
