# SPDX-License-Identifier: Apache-2.0
"""The OAuth 2 and OpenID Connect calls: tokens for client identities, and who they speak for."""

from __future__ import annotations

import asyncio
import base64
import binascii
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from sqlalchemy import delete, select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import caller_of, parts_of, read_body
from globus_compute_services.api.errors import ApiError, bad_request, unprocessable
from globus_compute_services.auth.scopes import AUTH_SERVER, group_by_server
from globus_compute_services.credentials import token_digest, verify_secret
from globus_compute_services.relay.starts import identity_document
from globus_compute_services.store.identities import (
    caller_of_token,
    issue_token,
    linked_identities,
)
from globus_compute_services.store.schema import Client, Identity, Token

__all__ = ["identities", "introspect", "openid_configuration", "revoke", "token", "userinfo"]

_MOST_IDENTITIES = 100
_MOST_FIELDS = 50
_LONGEST_FORM = 64 * 1024


class OAuthError(ApiError):
    """A refusal in the form of RFC 6749."""

    def __init__(self, status: HTTPStatus, error: str, message: str) -> None:
        super().__init__(status, error, message)

    def response(self) -> Response:
        body = {
            "error": self.code,
            "error_description": self.message,
            "code": self.code,
            "message": self.message,
            "reason": self.message,
            "http_status_code": int(self.status),
        }
        headers = {"Cache-Control": "no-store"}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Basic realm="globus-compute-services"'
        return JSONResponse(body, status_code=self.status, headers=headers)


async def token(request: Request) -> Response:
    """``POST /v2/oauth2/token``: the client credentials grant."""
    form = await _form(request)
    client = await _client_of(request, form)
    grant = form.get("grant_type", "")
    if grant != "client_credentials":
        raise OAuthError(
            HTTPStatus.BAD_REQUEST,
            "unsupported_grant_type",
            f"grant_type: {grant!r} is not offered here; sign in with GLOBUS_COMPUTE_CLIENT_ID "
            "and GLOBUS_COMPUTE_CLIENT_SECRET",
        )
    try:
        by_server = group_by_server(form.get("scope", ""))
    except ValueError as error:
        raise OAuthError(HTTPStatus.BAD_REQUEST, "invalid_scope", str(error)) from None
    lifetime = parts_of(request).settings.token_lifetime_s
    async with parts_of(request).database.write() as session:
        tokens: list[dict[str, Any]] = [
            {
                "access_token": issue_token(session, client, scope, server, lifetime),
                "scope": scope,
                "resource_server": server,
                "expires_in": lifetime,
                "token_type": "Bearer",
            }
            for server, scope in by_server.items()
        ]
    first, *others = tokens
    return JSONResponse(first | {"other_tokens": others}, headers={"Cache-Control": "no-store"})


async def introspect(request: Request) -> Response:
    """``POST /v2/oauth2/token/introspect``."""
    form = await _form(request)
    await _client_of(request, form)
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
            "iss": parts_of(request).settings.http.public_url,
            "identities_set": [str(identity.id) for identity in linked],
            "identity_set": [str(identity.id) for identity in linked],
        }
    )


async def revoke(request: Request) -> Response:
    """``POST /v2/oauth2/token/revoke``: of the client's own tokens; others are left alone."""
    form = await _form(request)
    client = await _client_of(request, form)
    async with parts_of(request).database.write() as session:
        await session.execute(
            delete(Token).where(
                Token.digest == token_digest(form.get("token", "")), Token.client_id == client.id
            )
        )
    return JSONResponse({"active": False})


async def userinfo(request: Request) -> Response:
    """``GET /v2/oauth2/userinfo``."""
    caller = await caller_of(request, AUTH_SERVER)
    async with parts_of(request).database.read() as session:
        linked = await linked_identities(session, caller.identity)
    identity = caller.identity
    return JSONResponse(
        {
            "sub": str(identity.id),
            "preferred_username": identity.username,
            "name": identity.name,
            "email": identity.email,
            "organization": identity.organization,
            "identity_set": [identity_document(each) for each in linked],
        }
    )


async def identities(request: Request) -> Response:
    """``GET /v2/api/identities`` with ``ids=`` or ``usernames=``."""
    await caller_of(request, AUTH_SERVER)
    query = request.query_params
    if "ids" in query:
        try:
            wanted = Identity.id.in_([UUID(one) for one in _listed(query["ids"])])
        except ValueError as error:
            raise unprocessable("INVALID_UUID", f"ids: {error}") from None
    elif "usernames" in query:
        wanted = Identity.username.in_(_listed(query["usernames"]))
    else:
        raise bad_request("Say which identities: ids= or usernames=")
    async with parts_of(request).database.read() as session:
        found = list(await session.scalars(select(Identity).where(wanted)))
    return JSONResponse({"identities": [identity_document(each) for each in found]})


async def openid_configuration(request: Request) -> Response:
    """``GET /.well-known/openid-configuration``."""
    base = parts_of(request).settings.http.public_url.rstrip("/")
    return JSONResponse(
        {
            "issuer": base,
            "token_endpoint": f"{base}/v2/oauth2/token",
            "introspection_endpoint": f"{base}/v2/oauth2/token/introspect",
            "revocation_endpoint": f"{base}/v2/oauth2/token/revoke",
            "userinfo_endpoint": f"{base}/v2/oauth2/userinfo",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "scopes_supported": ["openid", "email", "profile"],
        }
    )


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; the last one counts where one comes twice."""
    body = await read_body(request, _LONGEST_FORM)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise bad_request("The request is not a form (application/x-www-form-urlencoded)") from None


async def _client_of(request: Request, form: dict[str, str]) -> Client:
    """The client whose id and secret come by HTTP Basic or in the form."""
    client_id, secret = _credentials(request, form)
    client = None
    async with parts_of(request).database.read() as session:
        try:
            client = await session.get(Client, UUID(client_id))
        except ValueError:
            client = None
    valid = client is not None and await asyncio.to_thread(
        verify_secret, secret, client.secret_hash
    )
    if client is None or not valid:
        raise OAuthError(
            HTTPStatus.UNAUTHORIZED,
            "invalid_client",
            "The client id or secret is wrong; see GLOBUS_COMPUTE_CLIENT_ID and "
            "GLOBUS_COMPUTE_CLIENT_SECRET",
        )
    return client


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str]:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise bad_request("The Authorization header is not HTTP Basic") from None
    return client_id, secret


def _listed(value: str) -> list[str]:
    return [one for one in value.split(",") if one][:_MOST_IDENTITIES]
