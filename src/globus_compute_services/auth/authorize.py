# SPDX-License-Identifier: Apache-2.0
"""The pages on which a person signs in, allows what a program asks for, and gets the code.

All that a page needs is in its own address, so that nothing is kept for links nobody goes on with.
"""

from __future__ import annotations

import logging
import math
import re
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from globus_compute_services.api.context import parts_of
from globus_compute_services.auth.browser import Browser, SignedIn, browser_of
from globus_compute_services.auth.forms import form_of
from globus_compute_services.auth.pages import page
from globus_compute_services.auth.passwords import Busy
from globus_compute_services.auth.request import (
    AuthorizationRequest,
    NotAcceptable,
    own_address,
    parse_request,
)
from globus_compute_services.auth.scopes import describe
from globus_compute_services.store.accounts import account_named, confirm_password
from globus_compute_services.store.grants import (
    Grant,
    close_session,
    consented_scopes,
    make_code,
    open_session,
    remember_consent,
)
from globus_compute_services.store.schema import Client, Identity

__all__ = ["answer", "show", "show_code"]

log = logging.getLogger(__name__)

_CODE = re.compile(r"[A-Za-z0-9_-]{43}")
_LONGEST_NAME = 254
_STALE = "This page was out of date, or your browser keeps no cookies. Try once more."


async def show(request: Request) -> Response:
    """``GET /v2/oauth2/authorize``."""
    dialog = await _Dialog.of(request)
    return await dialog.next_page()


async def answer(request: Request) -> Response:
    """``POST /v2/oauth2/authorize``: a form of the same page."""
    form = await form_of(request)
    dialog = await _Dialog.of(request)
    if not dialog.browser.sent_form(form):
        return await dialog.next_page(_STALE, HTTPStatus.FORBIDDEN)
    match form.get("step"), dialog.signed_in:
        case "sign-in", _:
            return await dialog.sign_in(form.get("username", "").strip(), form.get("password", ""))
        case "sign-out", _:
            return await dialog.sign_out()
        case "deny", _:
            return page("denied", client=dialog.client.name)
        case "allow", SignedIn() as signed_in:
            return await dialog.allow(signed_in)
    return await dialog.next_page()


async def show_code(request: Request) -> Response:
    """``GET /v2/web/auth-code``: where a sign-in ends."""
    code = request.query_params.get("code", "")
    if not _CODE.fullmatch(code):
        raise NotAcceptable("There is no code in it.")
    return page("code", code=code)


class _Dialog:
    """One person's way from a link to a code."""

    def __init__(
        self, request: Request, asked: AuthorizationRequest, client: Client, browser: Browser
    ) -> None:
        self._query = request.url.query
        self._parts = parts_of(request)
        self.asked = asked
        self.client = client
        self.browser = browser

    @classmethod
    async def of(cls, request: Request) -> _Dialog:
        """Raises NotAcceptable."""
        parts = parts_of(request)
        http = parts.settings.http
        own = own_address(request.url.scheme, request.headers.get("host", ""), http)
        asked = parse_request(request.query_params, http, own)
        async with parts.database.read() as session:
            client = await session.get(Client, asked.client_id)
        if client is None or not client.is_public:
            raise NotAcceptable("The program which made it is not known here.")
        return cls(request, asked, client, await browser_of(request))

    @property
    def signed_in(self) -> SignedIn | None:
        """Who has signed in, if that is good enough for what is asked."""
        signed_in = self.browser.signed_in
        if signed_in is None or self.asked.unmet_by(signed_in):
            return None
        return signed_in

    async def next_page(self, alert: str = "", status: HTTPStatus = HTTPStatus.OK) -> Response:
        """To sign in; to allow, for one who has done so."""
        if self.signed_in is not None:
            return await self._consent_page(self.signed_in.identity, alert, status)
        if not alert and self.browser.signed_in is not None:
            alert = self.asked.unmet_by(self.browser.signed_in)
        return self._sign_in_page(alert, status)

    async def sign_in(self, username: str, password: str) -> Response:
        desk, address = self._parts.desk, self.browser.address
        name = username[:_LONGEST_NAME].replace("\0", "")
        if wait := desk.throttle.begin(name, address):
            log.warning("Too many failed sign-ins as %r from %s", name, address)
            alert = f"Too many sign-ins have failed. Try again in {math.ceil(wait / 60)} minutes."
            return self._sign_in_page(alert, HTTPStatus.TOO_MANY_REQUESTS, name)
        try:
            cookie = await self._cookie_for(name, password)
        except Busy:
            desk.throttle.not_tried(name, address)
            alert = "Too many people are signing in at the moment. Try again."
            return self._sign_in_page(alert, HTTPStatus.SERVICE_UNAVAILABLE, name)
        if cookie is None:
            log.warning("A sign-in as %r from %s failed", name, address)
            alert = "The user name or the password is wrong."
            return self._sign_in_page(alert, HTTPStatus.FORBIDDEN, name)
        desk.throttle.succeeded(name, address)
        log.info("%r has signed in from %s", name, address)
        self.browser.session_cookie = cookie
        return self._again()

    async def sign_out(self) -> Response:
        async with self._parts.database.write() as session:
            await close_session(session, self.browser.session_cookie)
        self.browser.session_cookie = ""
        return self._again()

    async def allow(self, signed_in: SignedIn) -> Response:
        asked = self.asked
        scopes = asked.scopes()
        grant = Grant(
            identity_id=signed_in.identity.id,
            client_id=self.client.id,
            redirect_uri=asked.redirect_uri,
            challenge=asked.code_challenge,
            scopes=" ".join(scopes),
            offline=asked.access_type == "offline",
            signed_in=signed_in.session.signed_in,
        )
        async with self._parts.database.write() as session:
            await remember_consent(session, grant, scopes)
            code = make_code(session, grant)
        log.info(
            "%s has allowed %s: %s", signed_in.identity.username, self.client.name, grant.scopes
        )
        query = urlencode({"code": code, "state": asked.state})
        return RedirectResponse(f"{asked.redirect_uri}?{query}", HTTPStatus.SEE_OTHER)

    async def _cookie_for(self, username: str, password: str) -> str | None:
        """That of a new session; None if name or password is wrong. Raises Busy."""
        async with self._parts.database.read() as session:
            found = await account_named(session, username)
        account, identity = found or (None, None)
        verdict = await self._parts.desk.passwords.verify(
            account.password_hash if account else None, password
        )
        if not verdict.right or account is None or identity is None:
            return None
        async with self._parts.database.write() as session:
            if not await confirm_password(session, account, verdict.new_hash):
                return None
            await close_session(session, self.browser.session_cookie)
            return open_session(session, identity, self.asked.code_challenge)

    def _sign_in_page(self, alert: str, status: HTTPStatus, username: str = "") -> Response:
        response = page("sign-in", status, alert=alert, username=username, **self._values())
        self.browser.set_cookies(response)
        return response

    async def _consent_page(self, identity: Identity, alert: str, status: HTTPStatus) -> Response:
        async with self._parts.database.read() as session:
            before = await consented_scopes(session, identity, self.client)
        scopes = self.asked.scopes()
        response = page(
            "consent",
            status,
            alert=alert,
            identity=identity,
            asked=[describe(scope) for scope in scopes if scope not in before],
            allowed=[describe(scope) for scope in scopes if scope in before],
            offline=self.asked.access_type == "offline",
            **self._values(),
        )
        self.browser.set_cookies(response)
        return response

    def _values(self) -> dict[str, str]:
        return {
            "client": self.client.name,
            "label": self.asked.prefill_named_grant,
            "message": self.asked.session_message,
            "site": urlsplit(self._parts.settings.http.public_url).netloc,
            "form_token": self.browser.form_token,
        }

    def _again(self) -> Response:
        """The same address, so that reloading the page sends no form twice."""
        response = RedirectResponse(f"?{self._query}", HTTPStatus.SEE_OTHER)
        self.browser.set_cookies(response)
        return response
