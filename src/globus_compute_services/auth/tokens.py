# SPDX-License-Identifier: Apache-2.0
"""Tokens: given for a client's secret, a person's code or a stored login; shown, and revoked."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import Parts, parts_of
from globus_compute_services.auth.forms import OAuthError, client_of, form_of
from globus_compute_services.auth.scopes import group_by_server
from globus_compute_services.credentials import token_digest
from globus_compute_services.store.accounts import may_log_in
from globus_compute_services.store.grants import (
    Grant,
    make_refresh_token,
    take_code,
    use_refresh_token,
)
from globus_compute_services.store.identities import (
    caller_of_token,
    issue_token,
    linked_identities,
)
from globus_compute_services.store.schema import Client, Identity, RefreshToken, Token

__all__ = ["introspect", "revoke", "token"]

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


async def token(request: Request) -> Response:
    """``POST /v2/oauth2/token``."""
    form = await form_of(request)
    client = await client_of(request, form, public_allowed=True)
    grant = form.get("grant_type", "")
    give = (_FOR_PEOPLE if client.is_public else _FOR_PROGRAMS).get(grant)
    if give is None:
        raise OAuthError(
            HTTPStatus.BAD_REQUEST,
            "unsupported_grant_type",
            f"grant_type: {grant!r} is not offered to this client; sign in with "
            "GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET, or in a browser",
        )
    document = await give(parts_of(request), client, form)
    return JSONResponse(document, headers={"Cache-Control": "no-store"})


async def _for_secret(parts: Parts, client: Client, form: dict[str, str]) -> dict[str, Any]:
    """The client credentials grant."""
    try:
        by_server = group_by_server(form.get("scope", ""))
    except ValueError as error:
        raise OAuthError(HTTPStatus.BAD_REQUEST, "invalid_scope", str(error)) from None
    async with parts.database.write() as session:
        first, *others = [
            _access_token(parts, session, client, (client.identity_id, scope, server))
            for server, scope in by_server.items()
        ]
    return first | {"other_tokens": others}


async def _for_code(parts: Parts, client: Client, form: dict[str, str]) -> dict[str, Any]:
    """The authorization code grant, with PKCE."""
    # In a transaction of its own: a code that was tried with a wrong verifier is spent, too.
    async with parts.database.write() as session:
        grant = await take_code(session, form.get("code", ""))
    if (
        grant is None
        or grant.client_id != client.id
        or grant.redirect_uri != form.get("redirect_uri")
        or not _is_verifier_of(form.get("code_verifier", ""), grant.challenge)
    ):
        raise _invalid_grant("The code is wrong, was used before, or has expired; sign in again")
    async with parts.database.write() as session:
        if not await may_log_in(session, grant):
            raise _invalid_grant("The account was changed meanwhile; sign in again")
        identity = await session.get_one(Identity, grant.identity_id)
        first, *others = [
            _access_token(parts, session, client, (identity.id, scope, server))
            | (
                {"refresh_token": make_refresh_token(session, grant, scope, server)}
                if grant.offline
                else {}
            )
            for server, scope in group_by_server(grant.scopes).items()
        ]
    return first | {"other_tokens": others, "id_token": _id_token(parts, grant, identity)}


async def _for_login(parts: Parts, client: Client, form: dict[str, str]) -> dict[str, Any]:
    """The refresh grant: a new access token of the one resource server."""
    given = form.get("refresh_token", "")
    async with parts.database.write() as session:
        stored = await use_refresh_token(session, given, client)
        if stored is None:
            raise _invalid_grant("The login was revoked, or not used for long; log in again")
        about = (stored.identity_id, stored.scope, stored.resource_server)
        document = _access_token(parts, session, client, about)
    return document | {"refresh_token": given, "other_tokens": []}


_FOR_PROGRAMS: dict[str, Callable[[Parts, Client, dict[str, str]], Awaitable[dict[str, Any]]]] = {
    "client_credentials": _for_secret,
}
_FOR_PEOPLE: dict[str, Callable[[Parts, Client, dict[str, str]], Awaitable[dict[str, Any]]]] = {
    "authorization_code": _for_code,
    "refresh_token": _for_login,
}


def _access_token(
    parts: Parts, session: AsyncSession, client: Client, about: tuple[Any, str, str]
) -> dict[str, Any]:
    identity_id, scope, server = about
    lifetime = parts.settings.token_lifetime_s
    access_token = issue_token(
        session, client, identity_id, scope=scope, resource_server=server, lifetime_s=lifetime
    )
    return {
        "access_token": access_token,
        "scope": scope,
        "resource_server": server,
        "expires_in": lifetime,
        "token_type": "Bearer",
    }


def _id_token(parts: Parts, grant: Grant, identity: Identity) -> str:
    settings = parts.settings
    return parts.desk.signer.id_token(
        settings.http.issuer,
        grant.client_id,
        identity,
        grant.signed_in,
        settings.token_lifetime_s,
    )


def _is_verifier_of(verifier: str, challenge: str) -> bool:
    """RFC 7636, method S256."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    digest = hashlib.sha256(verifier.encode()).digest()
    return hmac.compare_digest(urlsafe_b64encode(digest).decode().rstrip("="), challenge)


def _invalid_grant(message: str) -> OAuthError:
    return OAuthError(HTTPStatus.BAD_REQUEST, "invalid_grant", message)


async def introspect(request: Request) -> Response:
    """``POST /v2/oauth2/token/introspect``."""
    form = await form_of(request)
    await client_of(request, form)
    async with parts_of(request).database.read() as session:
        caller = await caller_of_token(session, form.get("token", ""))
        if caller is None:
            return JSONResponse({"active": False})
        linked = await linked_identities(session, caller.identity)
    return JSONResponse(
        {
            "active": True,
            "scope": caller.token.scope,
            "client_id": str(caller.token.client_id),
            "sub": str(caller.identity.id),
            "username": caller.identity.username,
            "name": caller.identity.name,
            "email": caller.identity.email,
            "iat": int(caller.token.issued),
            "nbf": int(caller.token.issued),
            "exp": int(caller.token.expires),
            "token_type": "Bearer",
            "aud": [caller.token.resource_server, str(caller.token.client_id)],
            "iss": parts_of(request).settings.http.issuer,
            "identities_set": [str(identity.id) for identity in linked],
            "identity_set": [str(identity.id) for identity in linked],
        }
    )


async def revoke(request: Request) -> Response:
    """``POST /v2/oauth2/token/revoke``: of the client's own tokens; others are left alone."""
    form = await form_of(request)
    client = await client_of(request, form, public_allowed=True)
    digest = token_digest(form.get("token", ""))
    async with parts_of(request).database.write() as session:
        for table in (Token, RefreshToken):
            await session.execute(
                delete(table).where(table.digest == digest, table.client_id == client.id)
            )
    return JSONResponse({"active": False})
