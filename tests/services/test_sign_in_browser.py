# SPDX-License-Identifier: Apache-2.0
"""People sign in with the SDK on a terminal and Chromium, and stay signed in."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from globus_compute_services.store.database import Database
from services.harness import URL, Services
from services.signing_in import (
    LINK,
    Link,
    Person,
    WebUser,
    allow_in,
    exchange,
    refresh,
    refused,
    stored_login,
    tokens_of,
    userinfo,
)
from support.databases import as_version
from support.terminal import Terminal
from support.webdriver import Page

DATABASES = ("postgresql",)
# The SDK renews a token a minute before it expires: these it renews at each call.
SETTINGS = {"token_lifetime_s": 60}

_SDK = """
from globus_compute_sdk import Client
from globus_compute_sdk.sdk.auth.whoami import print_whoami_info

client = Client()
print("registered", client.register_source_code("def f(): return 1", "f"))
print_whoami_info(client.app)
input("signed in? ")
print("registered", client.register_source_code("def g(): return 1", "g"))
input("log out? ")
client.logout()
print("left")
"""


@pytest.fixture(scope="module")
def erin(services: Services) -> Person:
    made = Person(services, "erin@example.org")
    made.create()
    return made


def test_the_sdk_logs_in_and_stays_logged_in(erin: Person, browser: Page, tmp_path: Path):
    environment = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": f"{URL}/",
        "GLOBUS_COMPUTE_USER_DIR": str(tmp_path),
        "PYTHONWARNINGS": "ignore",
    }
    with Terminal([sys.executable, "-c", _SDK], environment) as terminal:
        code = allow_in(browser, terminal.wait_for(LINK)[1], erin)
        terminal.text = ""
        terminal.type_line(code)
        terminal.wait_for(r"registered [0-9a-f-]{36}")
        # The SDK's whoami wants a scope more, which is a second consent and no second sign-in.
        browser.open(terminal.wait_for(LINK)[1])
        assert not browser.has("#password")
        assert "manage your projects" in browser.text_of("#asked")
        assert "Use Globus Compute" in browser.text_of("#allowed")
        browser.click("#allow")
        terminal.text = ""
        terminal.type_line(browser.value_of("#code"))
        terminal.wait_for("erin@example.org.*signed in")
        before = stored_login(tmp_path)
        assert set(before) == {"funcx_service", "auth.globus.org"}
        terminal.text = ""
        terminal.type_line("")
        terminal.wait_for(r"registered [0-9a-f-]{36}.*log out")
        after = stored_login(tmp_path)
        renewed, old = (each["funcx_service"] for each in (after, before))
        assert renewed["access_token"] != old["access_token"]
        assert renewed["refresh_token"] == old["refresh_token"]
        terminal.type_line("")
        terminal.wait_for("left")
        assert terminal.ended() == 0
    assert "funcx_service" not in stored_login(tmp_path)
    refused(refresh(old["refresh_token"]), 400, "invalid_grant")


def test_the_pages_say_what_happens(erin: Person, browser: Page, tmp_path: Path):
    link = Link({"prompt": "login", "prefill_named_grant": "laptop.example"}).url
    browser.open(link)
    assert browser.title == "Sign in – Globus Compute"
    assert "laptop.example" in browser.text
    assert browser.role_of("#password")[1] == "Password"
    assert browser.role_of("#username") == ("textbox", "User name")
    browser.fill("#username", erin.username)
    browser.fill("#password", "wrong")
    browser.click("#sign-in")
    assert browser.text_of("[role=alert]") == "The user name or the password is wrong."
    assert browser.value_of("#username") == erin.username
    assert browser.value_of("#password") == ""
    browser.screenshot(tmp_path / "sign-in.png")
    browser.fill("#password", erin.password)
    browser.click("#sign-in")
    assert browser.title == "Allow access? – Globus Compute"
    assert browser.text_of("#identity") == erin.username
    browser.screenshot(tmp_path / "consent.png")
    for cookie in browser.cookies().values():
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"
    browser.click("#deny")
    assert "got no access" in browser.text
    browser.open(link)
    browser.click("#sign-out")
    assert browser.has("#password")
    browser.open(f"{URL}/v2/oauth2/authorize?client_id=1")
    assert "This link does not work" in browser.text


def test_accounts_are_made_changed_and_deleted(services: Services, erin: Person):
    listed = json.loads(services.cli("account", "list", "--json").stdout)
    assert erin.username in [row["username"] for row in listed]
    again = services.cli(
        "account", "create", erin.username, "--password-stdin", given="long enough\n", check=False
    )
    assert again.returncode == 73
    assert "passwd" in again.stderr
    link = Link()
    user = WebUser()
    tokens = tokens_of(exchange(user.code_for(link, erin), link))
    login = tokens["funcx_service"]["refresh_token"]
    services.cli("account", "passwd", erin.username, "--password-stdin", given="a new one\n")
    assert "<h1>Sign in</h1>" in user.http.get(link.url).text
    assert "is wrong" in user.sign_in(link.url, erin).text
    changed = Person(services, erin.username, "a new one")
    assert "Allow access?" in user.sign_in(link.url, changed).text
    assert refresh(login).status_code == 200
    services.cli("account", "delete", erin.username)
    refused(refresh(login), 400, "invalid_grant")
    assert userinfo(tokens["auth.globus.org"]["access_token"]).status_code == 401
    assert "is wrong" in user.sign_in(link.url, changed).text


def test_a_password_is_asked_for_twice_on_a_terminal(services: Services):
    command = services.command("account", "create", "ivan@example.org")
    with Terminal(command, services.environment) as terminal:
        terminal.wait_for("Password: ")
        terminal.type_line("long enough")
        terminal.wait_for("Repeat for confirmation: ")
        terminal.type_line("long enouhg")
        terminal.wait_for("do not match.*Password: ")
        terminal.text = ""
        terminal.type_line("long enough")
        terminal.wait_for("confirmation: ")
        terminal.type_line("long enough")
        assert terminal.ended() == 0
        assert "Created account ivan@example.org" in terminal.text
        assert "long enough" not in terminal.text
    person = Person(services, "ivan@example.org", "long enough")
    assert "Allow access?" in WebUser().sign_in(Link().url, person).text


def test_services_which_start_bring_an_older_database_up_to_date(services: Services):
    """The last one here: it takes away all that people signed in with."""
    assert services.stop() == 0

    async def downgrade() -> None:
        database = Database(services.database_url)
        await as_version(database, 1)
        await database.close()

    asyncio.run(downgrade())
    assert services.cli("account", "list", check=False).returncode == 78
    services.start()
    judy = Person(services, "judy@example.org")
    judy.create()
    link = Link()
    tokens_of(exchange(WebUser().code_for(link, judy), link))
