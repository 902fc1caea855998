# SPDX-License-Identifier: Apache-2.0
"""Accounts which are changed while somebody signs in; tests/services has all else."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.store.accounts import (
    account_named,
    change_password,
    confirm_password,
    create_account,
    delete_account,
    may_log_in,
)
from globus_compute_services.store.database import Database
from globus_compute_services.store.grants import Grant
from globus_compute_services.store.schema import Identity, LocalAccount

NAME = "alice@example.org"


async def _change(session: AsyncSession) -> None:
    await change_password(session, NAME, "another", log_out=False)


async def _delete(session: AsyncSession) -> None:
    await delete_account(session, NAME)


@asynccontextmanager
async def _with_account(directory: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{directory}/services.sqlite3")
    await database.create()
    async with database.write() as session:
        await create_account(session, NAME, "hash", None)
    yield database
    await database.close()


async def _account(database: Database) -> tuple[LocalAccount, Identity] | None:
    async with database.read() as session:
        return await account_named(session, NAME)


def _granted(identity: UUID, signed_in: float) -> Grant:
    return Grant(
        identity_id=identity,
        client_id=identity,
        redirect_uri="",
        challenge="",
        scopes="openid",
        offline=True,
        signed_in=signed_in,
    )


def test_a_better_hash_takes_the_place_of_the_one_which_was_compared(tmp_path: Path):
    async def run() -> None:
        async with _with_account(tmp_path) as database:
            for new_hash, kept in (("better", "better"), (None, "better")):
                found = await _account(database)
                assert found is not None
                async with database.write() as session:
                    assert await confirm_password(session, found[0], new_hash)
                found = await _account(database)
                assert found is not None
                assert found[0].password_hash == kept

    asyncio.run(run())


@pytest.mark.parametrize(("meanwhile", "left"), [(_change, "another"), (_delete, None)])
def test_a_sign_in_under_way_neither_counts_nor_undoes_a_change(
    tmp_path: Path,
    meanwhile: Callable[[AsyncSession], Coroutine[None, None, None]],
    left: str | None,
):
    async def run() -> None:
        async with _with_account(tmp_path) as database:
            found = await _account(database)
            assert found is not None
            account, identity = found
            grant = _granted(identity.id, time.time())
            async with database.write() as session:
                assert await may_log_in(session, grant)
                await meanwhile(session)
            async with database.write() as session:
                assert not await confirm_password(session, account, "better")
                assert not await may_log_in(session, grant)
            now = await _account(database)
            assert (None if now is None else now[0].password_hash) == left

    asyncio.run(run())
