# SPDX-License-Identifier: Apache-2.0
"""Forms, refusals as OAuth words them, and the client that asks."""

from __future__ import annotations

import asyncio
import base64
import binascii
from http import HTTPStatus
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.api.context import parts_of, read_body
from globus_compute_services.api.errors import ApiError, bad_request
from globus_compute_services.credentials import verify_secret
from globus_compute_services.store.schema import Client

__all__ = ["OAuthError", "client_of", "form_of"]

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


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; the last one counts where one comes twice."""
    body = await read_body(request, _LONGEST_FORM)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise bad_request("The request is not a form (application/x-www-form-urlencoded)") from None


async def client_of(
    request: Request, form: dict[str, str], *, public_allowed: bool = False
) -> Client:
    """The client whose id and secret come by HTTP Basic or in the form.

    A public client has no secret; it may ask only where ``public_allowed``. Raises OAuthError.
    """
    client_id, secret = _credentials(request, form)
    client = None
    async with parts_of(request).database.read() as session:
        try:
            client = await session.get(Client, UUID(client_id))
        except ValueError:
            client = None
    if client is not None and client.is_public:
        valid = public_allowed and not secret
    else:
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
