# SPDX-License-Identifier: Apache-2.0
"""Who may sign in, with which client, and as whom a token speaks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.credentials import hash_secret, new_secret, token_digest
from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.store.schema import Client, GroupMember, Identity, Token

__all__ = [
    "Caller",
    "NewClient",
    "caller_of_token",
    "create_client",
    "delete_client",
    "find_identity",
    "groups_of",
    "issue_token",
    "linked_identities",
    "list_clients",
    "provide_identity",
]


@dataclass(frozen=True)
class Caller:
    """Who makes a request. ``linked`` holds all identities of the account, their own included."""

    identity: Identity
    linked: frozenset[UUID]
    token: Token


@dataclass(frozen=True)
class NewClient:
    """A client just made; its secret can be read here and nowhere else."""

    client: Client
    identity: Identity
    secret: str


async def find_identity(session: AsyncSession, username: str) -> Identity | None:
    return await session.scalar(select(Identity).where(Identity.username == username))


async def linked_identities(session: AsyncSession, identity: Identity) -> list[Identity]:
    """All identities of the same account, the given one first."""
    found = await session.scalars(select(Identity).where(Identity.account == identity.account))
    return sorted(found, key=lambda other: (other.id != identity.id, other.username))


async def create_client(
    session: AsyncSession, name: str, username: str, linked_to: str | None
) -> NewClient:
    """Make a client which signs in as ``username``; that identity is made if it is new.

    Raises Problem if the name is taken or ``linked_to`` is nobody.
    """
    if await session.scalar(select(Client.id).where(Client.name == name)):
        raise Problem(
            f"There is a client {name} already",
            "choose another name, or delete that one",
            ExitStatus.CANNOT_CREATE,
        )
    identity = await provide_identity(session, username, linked_to)
    secret = new_secret()
    client = Client(
        id=uuid4(),
        name=name,
        identity_id=identity.id,
        secret_hash=hash_secret(secret),
        created=time.time(),
    )
    session.add(client)
    return NewClient(client, identity, secret)


async def provide_identity(session: AsyncSession, username: str, linked_to: str | None) -> Identity:
    """The identity ``username``, made if it is new; raises Problem if ``linked_to`` is nobody."""
    identity = await find_identity(session, username)
    if identity is None:
        identity = _new_identity(username)
        session.add(identity)
    if linked_to is not None:
        other = await find_identity(session, linked_to)
        if other is None:
            raise Problem(
                f"There is no identity {linked_to}", "create an account or a client for it first"
            )
        identity.account = other.account
    await session.flush()
    return identity


def _new_identity(username: str) -> Identity:
    name, _, domain = username.partition("@")
    return Identity(
        id=uuid4(),
        account=uuid4(),
        username=username,
        name=name,
        email=username,
        organization=domain,
        created=time.time(),
    )


async def list_clients(session: AsyncSession) -> list[tuple[Client, Identity]]:
    rows = await session.execute(
        select(Client, Identity)
        .join(Identity, Identity.id == Client.identity_id)
        .where(Client.secret_hash != "")
        .order_by(Client.name)
    )
    return [(client, identity) for client, identity in rows]


async def delete_client(session: AsyncSession, name: str) -> None:
    """Delete a client and its tokens; its identity and what it owns stay."""
    client = await session.scalar(select(Client).where(Client.name == name))
    if client is None or client.is_public:
        raise Problem(f"There is no client {name}", "see: globus-compute-services client list")
    await session.execute(delete(Token).where(Token.client_id == client.id))
    await session.delete(client)


def issue_token(
    session: AsyncSession,
    client: Client,
    identity_id: UUID,
    *,
    scope: str,
    resource_server: str,
    lifetime_s: int,
) -> str:
    """Make an access token with which ``client`` speaks as the identity; returns the token."""
    token = new_secret()
    now = time.time()
    session.add(
        Token(
            digest=token_digest(token),
            identity_id=identity_id,
            client_id=client.id,
            scope=scope,
            resource_server=resource_server,
            issued=now,
            expires=now + lifetime_s,
        )
    )
    return token


async def caller_of_token(session: AsyncSession, token: str) -> Caller | None:
    """As whom ``token`` speaks; None if it is unknown or has expired."""
    row = await session.execute(
        select(Token, Identity)
        .join(Identity, Identity.id == Token.identity_id)
        .where(Token.digest == token_digest(token), Token.expires > time.time())
    )
    found = row.one_or_none()
    if found is None:
        return None
    stored, identity = found
    linked = await session.scalars(select(Identity.id).where(Identity.account == identity.account))
    return Caller(identity, frozenset(linked), stored)


async def groups_of(session: AsyncSession, identities: frozenset[UUID]) -> set[UUID]:
    """The groups which any of these identities is a member of."""
    found = await session.scalars(
        select(GroupMember.group_id).where(GroupMember.identity_id.in_(identities))
    )
    return set(found)
