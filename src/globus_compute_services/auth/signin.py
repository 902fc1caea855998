# SPDX-License-Identifier: Apache-2.0
"""Who someone is, and what clients must know about sign-in here."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import caller_of, parts_of
from globus_compute_services.api.errors import bad_request, unprocessable
from globus_compute_services.auth.request import own_address
from globus_compute_services.auth.scopes import AUTH_SERVER, COMPUTE_SCOPE
from globus_compute_services.auth.signing import ALGORITHM
from globus_compute_services.relay.starts import identity_document
from globus_compute_services.store.identities import linked_identities
from globus_compute_services.store.schema import Identity

__all__ = ["identities", "openid_configuration", "public_keys", "userinfo"]

_MOST_IDENTITIES = 100


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
    http = parts_of(request).settings.http
    base = own_address(request.url.scheme, request.headers.get("host", ""), http)
    return JSONResponse(
        {
            "issuer": http.issuer,
            "authorization_endpoint": f"{base}/v2/oauth2/authorize",
            "token_endpoint": f"{base}/v2/oauth2/token",
            "introspection_endpoint": f"{base}/v2/oauth2/token/introspect",
            "revocation_endpoint": f"{base}/v2/oauth2/token/revoke",
            "userinfo_endpoint": f"{base}/v2/oauth2/userinfo",
            "jwks_uri": f"{base}/jwk.json",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "code_challenge_methods_supported": ["S256"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
                "none",
            ],
            "scopes_supported": ["openid", "email", "profile", COMPUTE_SCOPE],
            "claims_supported": [
                *("iss", "aud", "sub", "iat", "exp", "auth_time"),
                *("preferred_username", "name", "email", "organization"),
            ],
            "prompt_values_supported": ["login"],
        }
    )


async def public_keys(request: Request) -> Response:
    """``GET /jwk.json``."""
    return JSONResponse({"keys": [parts_of(request).desk.signer.public_key()]})


def _listed(value: str) -> list[str]:
    return [one for one in value.split(",") if one][:_MOST_IDENTITIES]
