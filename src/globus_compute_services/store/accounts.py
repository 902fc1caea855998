# SPDX-License-Identifier: Apache-2.0
"""Local accounts: who signs in with a password, and what ends with an account."""

from __future__ import annotations

import time
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.store.grants import Grant
from globus_compute_services.store.identities import provide_identity
from globus_compute_services.store.provisions import PUBLIC_CLIENT
from globus_compute_services.store.schema import (
    AuthorizationCode,
    Consent,
    Identity,
    LocalAccount,
    RefreshToken,
    SignInSession,
    Token,
)

__all__ = [
    "account_named",
    "change_password",
    "confirm_password",
    "create_account",
    "delete_account",
    "list_accounts",
    "may_log_in",
]


async def create_account(
    session: AsyncSession, username: str, password_hash: str, linked_to: str | None
) -> Identity:
    """Let ``username`` sign in with a password; that identity is made if it is new.

    Raises Problem if there is such an account already or ``linked_to`` is nobody.
    """
    if await account_named(session, username) is not None:
        raise Problem(
            f"There is an account {username} already",
            f"to change its password: globus-compute-services account passwd {username}",
            ExitStatus.CANNOT_CREATE,
        )
    identity = await provide_identity(session, username, linked_to)
    now = time.time()
    session.add(
        LocalAccount(identity_id=identity.id, password_hash=password_hash, created=now, changed=now)
    )
    return identity


async def account_named(
    session: AsyncSession, username: str
) -> tuple[LocalAccount, Identity] | None:
    """The account with which ``username`` signs in, if there is one."""
    row = await session.execute(
        select(LocalAccount, Identity)
        .join(Identity, Identity.id == LocalAccount.identity_id)
        .where(Identity.username == username)
    )
    found = row.one_or_none()
    return None if found is None else (found[0], found[1])


async def confirm_password(
    session: AsyncSession, account: LocalAccount, new_hash: str | None
) -> bool:
    """Whether the account is still as it was when a password was compared with its hash.

    That takes a while, and somebody else may change or delete it meanwhile. ``new_hash``, if any,
    takes the place of the hash.
    """
    kept = await session.scalar(
        update(LocalAccount)
        .where(
            LocalAccount.identity_id == account.identity_id,
            LocalAccount.password_hash == account.password_hash,
        )
        .values(password_hash=new_hash or account.password_hash)
        .returning(LocalAccount.identity_id)
    )
    return kept is not None


async def may_log_in(session: AsyncSession, grant: Grant) -> bool:
    """Whether the account which granted that is there, with the password of that sign-in."""
    account = await session.get(LocalAccount, grant.identity_id, with_for_update=True)
    return account is not None and account.changed <= grant.signed_in


async def list_accounts(session: AsyncSession) -> list[tuple[LocalAccount, Identity]]:
    rows = await session.execute(
        select(LocalAccount, Identity)
        .join(Identity, Identity.id == LocalAccount.identity_id)
        .order_by(Identity.username)
    )
    return [(account, identity) for account, identity in rows]


async def change_password(
    session: AsyncSession, username: str, password_hash: str, *, log_out: bool
) -> None:
    """Set a password, and end the sessions of all browsers; with ``log_out`` all logins too."""
    account, identity = await _existing(session, username)
    account.password_hash = password_hash
    account.changed = time.time()
    await _end_sessions(session, identity.id)
    if log_out:
        await _end_logins(session, identity.id)


async def delete_account(session: AsyncSession, username: str) -> None:
    """Delete an account and all logins made with it; its identity and what it owns stay."""
    account, identity = await _existing(session, username)
    await session.delete(account)  # and from here on nobody signs in with it
    await session.flush()
    await _end_sessions(session, identity.id)
    await _end_logins(session, identity.id)
    await session.execute(delete(Consent).where(Consent.identity_id == identity.id))


async def _existing(session: AsyncSession, username: str) -> tuple[LocalAccount, Identity]:
    found = await account_named(session, username)
    if found is None:
        raise Problem(
            f"There is no account {username}", "see: globus-compute-services account list"
        )
    return found


async def _end_sessions(session: AsyncSession, identity_id: UUID) -> None:
    for table in (SignInSession, AuthorizationCode):
        await session.execute(delete(table).where(table.identity_id == identity_id))


async def _end_logins(session: AsyncSession, identity_id: UUID) -> None:
    """Tokens which the identity's clients got by their own secrets stay."""
    for table in (RefreshToken, Token):  # in this order, no token is made from a login meanwhile
        await session.execute(
            delete(table).where(table.identity_id == identity_id, table.client_id == PUBLIC_CLIENT)
        )
