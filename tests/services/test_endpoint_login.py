# SPDX-License-Identifier: Apache-2.0
"""Endpoints of people: the first start's link and code, ``login``, ``logout``, ``whoami``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from services.harness import PATIENCE_S, TREE, URL, Researcher, Services
from services.signing_in import LINK, Person, allow_in, refresh, refused, stored_login
from support.terminal import Terminal
from support.webdriver import Page

# The SDK renews a token a minute before it expires: these it renews at each call.
SETTINGS = {"token_lifetime_s": 60}
CONFIG = "display_name: null\nengine: {type: ThreadPoolEngine, max_workers: 1}\n"
_numbers = count(1)

_SUBMIT = """
import sys
from globus_compute_sdk import Executor

def dot_product(a, b):
    return sum(a_i * b_i for a_i, b_i in zip(a, b))

with Executor(endpoint_id=sys.argv[1]) as executor:
    print(executor.submit(dot_product, (1, 2, 3), (4, 5, 6)).result(60))
"""


@dataclass
class Home:
    """A home directory, and the commands which its owner types."""

    path: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.path),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(TREE / "src"),
            "PYTHONWARNINGS": "ignore",
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{URL}/",
            **self.variables,
        }

    @property
    def stored(self) -> dict[str, dict[str, str]]:
        return stored_login(self.path / ".globus_compute")

    def as_client(self, researcher: Researcher) -> Home:
        """The same home, with a client identity in the environment."""
        identity = {
            "GLOBUS_COMPUTE_CLIENT_ID": researcher.client["client_id"],
            "GLOBUS_COMPUTE_CLIENT_SECRET": researcher.client["client_secret"],
        }
        return Home(self.path, identity)

    def run(self, *arguments: str, status: int = 0) -> str:
        """Nobody sits at a terminal. Returns what is printed, on either stream."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def terminal(self, *arguments: str) -> Terminal:
        return Terminal(self.command(*arguments), self.environment)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "globus_compute_endpoint", *arguments]

    def configure(self, name: str, config: str = CONFIG) -> None:
        self.run("configure", name)
        (self.path / ".globus_compute" / name / "config.yaml").write_text(config)

    def log_in(self, browser: Page, person: Person, *arguments: str) -> str:
        """A command on a terminal which asks to log in; returns what it prints afterwards."""
        with self.terminal(*arguments) as terminal:
            code = allow_in(browser, terminal.wait_for(LINK)[1], person)
            terminal.text = ""
            terminal.type_line(code)
            status = terminal.ended()
            assert status == 0, terminal.text
            return terminal.text


@pytest.fixture
def person(services: Services) -> Person:
    made = Person(services, f"frank{next(_numbers)}@example.org")
    made.create()
    return made


@pytest.fixture
def home(tmp_path: Path, browser: Page) -> Home:
    browser.forget()
    return Home(tmp_path)


def test_the_first_start_logs_in_and_later_ones_need_not(home: Home, person: Person, browser: Page):
    home.configure("mine")
    said = home.log_in(browser, person, "start", "mine")
    endpoint_id = said.partition("registered ID: ")[2].split()[0]
    try:
        before = home.stored["funcx_service"]
        # The SDK finds the same login, and renews what has expired.
        done = subprocess.run(
            [sys.executable, "-c", _SUBMIT, endpoint_id],
            env=home.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.stdout == "32\n", done.stderr
        after = home.stored["funcx_service"]
        assert after["access_token"] != before["access_token"]
        assert person.username in home.run("whoami")
    finally:
        home.run("stop", "mine")
    assert endpoint_id in home.run("start", "mine")
    assert home.stored["funcx_service"]["access_token"] != after["access_token"]
    home.run("stop", "mine")
    assert (home.path / ".globus_compute" / "storage.db").stat().st_mode & 0o777 == 0o600


def test_login_whoami_and_logout(services: Services, home: Home, person: Person, browser: Page):
    assert f"Logged in as {person.username}" in home.log_in(browser, person, "login")
    assert "Already logged in" in home.run("login")
    assert "the stored login stays as it is" in home.run("login", "--force", status=77)
    assert f"| {person.username} " in home.run("whoami")
    shown = json.loads(home.run("whoami", "--json"))
    assert (shown["username"], shown["email"]) == (person.username, person.username)
    linked = json.loads(home.run("whoami", "--json", "--linked-identities"))
    assert linked == [shown]
    other = Person(services, f"other-{person.username}")
    other.create()
    browser.forget()
    with home.terminal("login", "--force") as terminal:
        terminal.type_line(allow_in(browser, terminal.wait_for(LINK)[1], other))
        assert terminal.ended() == 77
        assert "globus-compute-endpoint logout" in terminal.text
    login = home.stored["funcx_service"]["refresh_token"]
    assert "Logged out" in home.run("logout")
    assert home.stored == {}
    refused(refresh(login), 400, "invalid_grant")
    assert "globus-compute-endpoint login" in home.run("whoami", status=77)
    assert "Nobody is logged in" in home.run("logout")


def test_without_a_terminal_and_credentials_a_start_fails_at_once(home: Home):
    home.configure("mine")
    began = time.monotonic()
    said = home.run("start", "mine", status=77)
    assert time.monotonic() - began < 15
    assert "globus-compute-endpoint login mine" in said
    assert "GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET" in said
    assert "Traceback" not in said


def test_a_client_identity_comes_before_a_login(
    services: Services, home: Home, person: Person, browser: Page
):
    """Both at once, from two terminals of one host."""
    program = services.researcher("prog", "prog@example.org")
    client = home.as_client(program)
    home.log_in(browser, person, "login")
    assert person.username in home.run("whoami")
    assert "prog@example.org" in client.run("whoami")
    assert "comes before a login" in client.run("login", status=78)
    for name, by in (("of-person", home), ("of-client", client)):
        by.configure(name)
        by.run("start", name)
    try:
        table = home.run("list")
        assert table.count("Running") == 2, table
    finally:
        home.run("stop", "of-person")
        home.run("stop", "of-client")
    said = client.run("start", "of-person", status=77)
    assert "registered by another identity than prog@example.org" in said


def test_what_the_environment_lacks_is_named(home: Home):
    half = Home(home.path, {"GLOBUS_COMPUTE_CLIENT_SECRET": "x"})
    assert "GLOBUS_COMPUTE_CLIENT_ID is not" in half.run("whoami", status=78)
    astray = Home(home.path, {"GLOBUS_SDK_SERVICE_URL_AUTH": ""})
    assert "set GLOBUS_SDK_SERVICE_URL_AUTH" in astray.run("whoami", status=78)
    wrong = {"GLOBUS_COMPUTE_CLIENT_ID": "x", "GLOBUS_COMPUTE_CLIENT_SECRET": "x"}
    said = Home(home.path, wrong).run("whoami", status=77)
    assert "client identity x was refused" in said


def test_a_login_that_was_ended_says_so_and_can_be_renewed(
    services: Services, home: Home, person: Person, browser: Page
):
    home.log_in(browser, person, "login")
    services.cli(
        *("account", "passwd", person.username, "--log-out", "--password-stdin"),
        given=f"{person.password}\n",
    )
    said = home.run("whoami", status=77)
    assert "log in again: globus-compute-endpoint login --force" in said
    home.log_in(browser, person, "login", "--force")
    assert person.username in home.run("whoami")


def test_a_wrong_code_is_refused_in_plain_words(home: Home):
    with home.terminal("login") as terminal:
        terminal.wait_for(LINK)
        terminal.type_line("not-the-code")
        assert terminal.ended() == 77
        assert "The code is wrong, was used before, or has expired" in terminal.text
        assert "Traceback" not in terminal.text


def test_services_of_a_site_have_a_login_of_their_own(home: Home, person: Person, browser: Page):
    """The token of one sign-in is never sent to another."""
    home.log_in(browser, person, "login")
    other = "http://127.0.0.1:5000"
    home.configure("site", f"{CONFIG}services: {{compute_url: '{other}', auth_url: '{other}'}}\n")
    assert "globus-compute-endpoint login site" in home.run("whoami", "site", status=77)
    browser.forget()
    assert person.username in home.log_in(browser, person, "login", "site")
    assert person.username in home.run("whoami", "site")
    home.run("logout", "site")
    assert person.username in home.run("whoami")
