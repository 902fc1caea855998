# SPDX-License-Identifier: Apache-2.0
"""Links to the sign-in page, and what a browser or a program makes of them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from services.harness import PATIENCE_S, SCOPE, URL, Services
from support.webdriver import Page

CLIENT = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
CODE_PAGE = f"{URL}/v2/web/auth-code"
# as the SDK prints it on a terminal
LINK = r"(http://[\w.]+:5000/v2/oauth2/authorize\S+)\s.*Authorization Code here: "
PASSWORD = "correct horse battery staple"


@dataclass
class Person:
    """Someone with a local account."""

    services: Services
    username: str
    password: str = PASSWORD

    def create(self, *more: str) -> None:
        arguments = ("account", "create", self.username, "--password-stdin", *more)
        self.services.cli(*arguments, given=f"{self.password}\n")


@dataclass
class Link:
    """A request for authorization, as the SDK words it."""

    asked: dict[str, str] = field(default_factory=dict)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @property
    def url(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        query = {
            "client_id": CLIENT,
            "redirect_uri": CODE_PAGE,
            "scope": f"{SCOPE} openid",
            "state": "_default",
            "response_type": "code",
            "code_challenge": urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
            "access_type": "offline",
            **self.asked,
        }
        return f"{URL}/v2/oauth2/authorize?{urlencode(query)}"


class WebUser:
    """A browser without a screen, at the level of HTTP."""

    def __init__(self) -> None:
        self.http = httpx.Client(timeout=PATIENCE_S, follow_redirects=True)

    def send(self, url: str, **fields: str) -> httpx.Response:
        """Fill in the form at ``url``."""
        shown = self.http.get(url)
        found = re.search(r'name="form_token" value="(\w+)"', shown.text)
        assert found, shown.text
        return self.http.post(url, data={"form_token": found[1], **fields})

    def sign_in(self, url: str, person: Person) -> httpx.Response:
        return self.send(url, step="sign-in", username=person.username, password=person.password)

    def code_for(self, link: Link, person: Person) -> str:
        answer = self.sign_in(link.url, person)
        assert person.username in answer.text, answer.text
        return code_in(str(self.send(link.url, step="allow").url))


def code_in(url: str) -> str:
    return parse_qs(urlsplit(url).query)["code"][0]


def exchange(code: str, link: Link, /, **other: str) -> httpx.Response:
    return httpx.post(
        f"{URL}/v2/oauth2/token",
        data={
            "client_id": CLIENT,
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": link.verifier,
            "redirect_uri": CODE_PAGE,
            **other,
        },
        timeout=PATIENCE_S,
    )


def tokens_of(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    """Tokens by resource server."""
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return {token["resource_server"]: token for token in [document, *document["other_tokens"]]}


def userinfo(token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{URL}/v2/oauth2/userinfo", headers=headers, timeout=PATIENCE_S)


def refresh(token: str) -> httpx.Response:
    fields = {"client_id": CLIENT, "grant_type": "refresh_token", "refresh_token": token}
    return httpx.post(f"{URL}/v2/oauth2/token", data=fields, timeout=PATIENCE_S)


def refused(answer: httpx.Response, status: int, error: str) -> str:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    return str(answer.json()["message"])


def stored_login(home: Path) -> dict[str, dict[str, str]]:
    """What the SDK has in its token storage, by resource server."""
    with sqlite3.connect(home / "storage.db") as connection:
        rows = connection.execute("SELECT token_data_json FROM token_storage").fetchall()
    tokens = [json.loads(row[0]) for row in rows]
    return {token["resource_server"]: token for token in tokens}


def allow_in(page: Page, url: str, person: Person) -> str:
    """A person opens the link, signs in if they must, allows; returns the code they are shown."""
    page.open(url)
    if page.has("#password"):
        page.fill("#username", person.username)
        page.fill("#password", person.password)
        page.click("#sign-in")
    assert page.text_of("#identity") == person.username
    page.click("#allow")
    return page.value_of("#code")
