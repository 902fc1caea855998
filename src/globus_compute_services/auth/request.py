# SPDX-License-Identifier: Apache-2.0
"""What a program asks for when it sends a person here to sign in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from starlette.responses import Response

from globus_compute_services.api.errors import ApiError
from globus_compute_services.auth.browser import SignedIn
from globus_compute_services.auth.pages import page
from globus_compute_services.auth.scopes import group_by_server
from globus_compute_services.documents import storable_text
from globus_compute_services.settings import HttpSettings

__all__ = ["AuthorizationRequest", "NotAcceptable", "own_address", "parse_request"]

_CODE_PAGE = "/v2/web/auth-code"
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:]+\](:[0-9]+)?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Line = Annotated[str, AfterValidator(storable_text), StringConstraints(max_length=500)]


class NotAcceptable(ApiError):
    """The link cannot be served; the text says why, for the person who opened it."""

    def __init__(self, message: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, "NOT_ACCEPTABLE", message)

    def response(self) -> Response:
        return page("error", self.status, alert=self.message)


class AuthorizationRequest(BaseModel):
    """The parameters of ``GET /v2/oauth2/authorize``; what is not named here is ignored."""

    model_config = ConfigDict(frozen=True)

    client_id: UUID
    redirect_uri: Line
    response_type: Literal["code"]
    scope: Annotated[str, StringConstraints(max_length=4000), AfterValidator(storable_text)] = ""
    state: Line = ""
    code_challenge: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    code_challenge_method: Literal["S256"]
    access_type: Literal["online", "offline"] = "online"
    prefill_named_grant: Line = ""
    prompt: Line = ""
    session_message: Line = ""
    session_required_identities: Line = ""
    session_required_single_domain: Line = ""
    session_required_policies: Line = ""
    session_required_mfa: Line = ""

    def scopes(self) -> list[str]:
        """All scopes asked for, without dependent ones."""
        return [
            scope for listed in group_by_server(self.scope).values() for scope in listed.split()
        ]

    def unmet_by(self, signed_in: SignedIn) -> str:
        """Why this sign-in will not do, for the person to read; empty if it will."""
        identity = signed_in.identity
        if (self.prompt == "login" or self.session_required_policies) and (
            signed_in.session.challenge != self.code_challenge
        ):
            return "Sign in again to go on."
        if (ids := _listed(self.session_required_identities)) and str(identity.id) not in ids:
            return f"{identity.username} is not the identity which is asked for."
        domain = identity.username.rpartition("@")[2]
        if (domains := _listed(self.session_required_single_domain)) and domain not in domains:
            return f"Sign in with an account of {' or '.join(domains)}."
        return ""


def parse_request(query: Mapping[str, str], http: HttpSettings, own: str) -> AuthorizationRequest:
    """Check the parameters of a link to these services at ``own``. Raises NotAcceptable."""
    try:
        asked = AuthorizationRequest.model_validate(dict(query))
        asked.scopes()
    except ValidationError as error:
        wrong = error.errors()[0]
        raise NotAcceptable(f"Its part {wrong['loc'][0]} is missing or wrong.") from None
    except ValueError as error:
        raise NotAcceptable(f"It asks for what is not known here: {error}.") from None
    if not _is_code_page(asked.redirect_uri, {http.issuer, own}):
        raise NotAcceptable("It would send your code to a place which is not ours.")
    if asked.session_required_mfa.lower() in ("true", "1"):
        raise NotAcceptable("It asks for a second factor, which these services do not know.")
    return asked


def own_address(scheme: str, host: str, http: HttpSettings) -> str:
    """The URL of these services for one who reaches them by ``scheme``, as ``host`` (and port).

    That is the public one; or, by HTTPS, any name for which we have a certificate; or that of a
    forwarder on the client's own machine.
    """
    if scheme == "https" and _HOST.fullmatch(host):
        return f"https://{host}"
    try:
        parts = urlsplit(f"http://{host}")
        forwarded = parts.hostname in _LOOPBACK and parts.port is not None
    except ValueError:
        forwarded = False
    return f"http://{host}" if forwarded else http.issuer


def _is_code_page(uri: str, addresses: Collection[str]) -> bool:
    """Our own page which shows the code, there or at the end of a forwarder (RFC 8252, 7.3)."""
    if uri in {f"{address}{_CODE_PAGE}" for address in addresses}:
        return True
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return parts.hostname in _LOOPBACK and uri == f"http://{host}:{port}{_CODE_PAGE}"


def _listed(value: str) -> list[str]:
    return [one.strip() for one in value.split(",") if one.strip()]
