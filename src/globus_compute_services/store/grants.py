# SPDX-License-Identifier: Apache-2.0
"""What a sign-in leaves behind: browser sessions, consents, codes, and stored logins."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from globus_compute_services.credentials import new_secret, token_digest
from globus_compute_services.store.schema import (
    AuthorizationCode,
    Client,
    Consent,
    Identity,
    RefreshToken,
    SignInSession,
)

__all__ = [
    "Grant",
    "close_session",
    "consented_scopes",
    "forget_expired",
    "make_code",
    "make_refresh_token",
    "open_session",
    "remember_consent",
    "session_of",
    "take_code",
    "use_refresh_token",
]

_SESSION_S = 12 * 3600.0
_CODE_S = 600.0
_REFRESH_UNUSED_S = 180 * 24 * 3600.0


@dataclass(frozen=True)
class Grant:
    """What a person allowed: the contents of a code. ``signed_in`` is when they did so."""

    identity_id: UUID
    client_id: UUID
    redirect_uri: str
    challenge: str
    scopes: str
    offline: bool
    signed_in: float


def open_session(session: AsyncSession, identity: Identity, challenge: str) -> str:
    """Remember that someone signed in; returns the secret for their browser's cookie."""
    cookie = new_secret()
    now = time.time()
    session.add(
        SignInSession(
            digest=token_digest(cookie),
            identity_id=identity.id,
            challenge=challenge,
            signed_in=now,
            expires=now + _SESSION_S,
        )
    )
    return cookie


async def session_of(session: AsyncSession, cookie: str) -> tuple[SignInSession, Identity] | None:
    """Who signed in with the browser that holds ``cookie``; None if nobody, or too long ago."""
    row = await session.execute(
        select(SignInSession, Identity)
        .join(Identity, Identity.id == SignInSession.identity_id)
        .where(SignInSession.digest == token_digest(cookie), SignInSession.expires > time.time())
    )
    found = row.one_or_none()
    return None if found is None else (found[0], found[1])


async def close_session(session: AsyncSession, cookie: str) -> None:
    await session.execute(delete(SignInSession).where(SignInSession.digest == token_digest(cookie)))


async def consented_scopes(
    session: AsyncSession, identity: Identity, client: Client
) -> frozenset[str]:
    """What the person has allowed this client before."""
    found = await session.scalars(
        select(Consent.scope).where(
            Consent.identity_id == identity.id, Consent.client_id == client.id
        )
    )
    return frozenset(found)


async def remember_consent(session: AsyncSession, grant: Grant, scopes: Iterable[str]) -> None:
    for scope in scopes:
        await session.merge(
            Consent(
                identity_id=grant.identity_id,
                client_id=grant.client_id,
                scope=scope,
                granted=time.time(),
            )
        )


def make_code(session: AsyncSession, grant: Grant) -> str:
    """Make a code which can be exchanged for what ``grant`` says, once and soon."""
    code = new_secret()
    session.add(
        AuthorizationCode(
            digest=token_digest(code),
            identity_id=grant.identity_id,
            client_id=grant.client_id,
            redirect_uri=grant.redirect_uri,
            challenge=grant.challenge,
            scopes=grant.scopes,
            offline=grant.offline,
            signed_in=grant.signed_in,
            expires=time.time() + _CODE_S,
        )
    )
    return code


async def take_code(session: AsyncSession, code: str) -> Grant | None:
    """What ``code`` stands for; it is good for nothing afterwards. None if it is not good now."""
    stored = await session.get(AuthorizationCode, token_digest(code))
    if stored is None:
        return None
    await session.delete(stored)
    if stored.expires < time.time():
        return None
    return Grant(
        identity_id=stored.identity_id,
        client_id=stored.client_id,
        redirect_uri=stored.redirect_uri,
        challenge=stored.challenge,
        scopes=stored.scopes,
        offline=stored.offline,
        signed_in=stored.signed_in,
    )


def make_refresh_token(session: AsyncSession, grant: Grant, scope: str, server: str) -> str:
    token = new_secret()
    now = time.time()
    session.add(
        RefreshToken(
            digest=token_digest(token),
            identity_id=grant.identity_id,
            client_id=grant.client_id,
            scope=scope,
            resource_server=server,
            issued=now,
            used=now,
        )
    )
    return token


async def use_refresh_token(
    session: AsyncSession, token: str, client: Client
) -> RefreshToken | None:
    """The stored login of this client which ``token`` stands for, if it is still good."""
    stored = await session.get(RefreshToken, token_digest(token))
    now = time.time()
    if stored is None or stored.client_id != client.id or stored.used < now - _REFRESH_UNUSED_S:
        return None
    stored.used = now
    return stored


async def forget_expired(session: AsyncSession) -> None:
    """Delete what is good for nothing any more."""
    now = time.time()
    for table in (SignInSession, AuthorizationCode):
        await session.execute(delete(table).where(table.expires < now))
    await session.execute(delete(RefreshToken).where(RefreshToken.used < now - _REFRESH_UNUSED_S))
