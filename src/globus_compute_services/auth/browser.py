# SPDX-License-Identifier: Apache-2.0
"""The browser at the other end: its cookies, who has signed in with it, and forms of our own."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from globus_compute_services.api.context import Parts, parts_of
from globus_compute_services.credentials import new_secret
from globus_compute_services.store.grants import session_of
from globus_compute_services.store.schema import Identity, SignInSession

__all__ = ["Browser", "SignedIn", "browser_of"]

_BROWSER_COOKIE = "globus_compute_browser"
_SESSION_COOKIE = "globus_compute_session"


@dataclass(frozen=True)
class SignedIn:
    """Someone who has signed in, and how."""

    session: SignInSession
    identity: Identity


@dataclass
class Browser:
    """One browser, known by a random cookie before anyone signs in with it."""

    parts: Parts
    address: str
    name: str
    session_cookie: str
    signed_in: SignedIn | None

    @property
    def form_token(self) -> str:
        """What a form of ours carries and another site's cannot."""
        about = f"form\n{self.name}\n{self.session_cookie}"
        return hmac.digest(self.parts.settings.key.encode(), about.encode(), "sha256").hex()

    def sent_form(self, form: dict[str, str]) -> bool:
        """Whether the form was made for this browser, as it is now."""
        return hmac.compare_digest(form.get("form_token", "").encode(), self.form_token.encode())

    def set_cookies(self, response: Response) -> None:
        """Have the browser keep what this object says."""
        secure = self.parts.settings.http.public_url.startswith("https:")
        for name, value in (
            (_BROWSER_COOKIE, self.name),
            (_SESSION_COOKIE, self.session_cookie),
        ):
            if value:
                response.set_cookie(name, value, httponly=True, samesite="lax", secure=secure)
            else:
                response.delete_cookie(name, httponly=True, samesite="lax", secure=secure)


async def browser_of(request: Request) -> Browser:
    """The browser which sent ``request``; a new one gets a name."""
    parts = parts_of(request)
    cookie = request.cookies.get(_SESSION_COOKIE, "")
    signed_in = None
    if cookie:
        async with parts.database.read() as session:
            if (found := await session_of(session, cookie)) is not None:
                signed_in = SignedIn(*found)
    return Browser(
        parts=parts,
        address=request.client.host if request.client else "",
        name=request.cookies.get(_BROWSER_COOKIE, "") or new_secret(),
        session_cookie=cookie if signed_in else "",
        signed_in=signed_in,
    )
