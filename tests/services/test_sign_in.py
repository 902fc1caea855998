# SPDX-License-Identifier: Apache-2.0
"""People sign in: codes, tokens and refusals at the level of HTTP."""

from __future__ import annotations

import httpx
import pytest

from services.harness import PATIENCE_S, SCOPE, URL, Services
from services.signing_in import (
    CLIENT,
    CODE_PAGE,
    Link,
    Person,
    WebUser,
    exchange,
    refresh,
    refused,
    tokens_of,
    userinfo,
)


@pytest.fixture(scope="module")
def person(services: Services) -> Person:
    made = Person(services, "carol@example.org")
    made.create()
    return made


def test_a_code_becomes_tokens_of_each_server_once(person: Person):
    link = Link()
    code = WebUser().code_for(link, person)
    answer = exchange(code, link)
    tokens = tokens_of(answer)
    assert tokens["funcx_service"]["scope"] == SCOPE
    assert tokens["auth.globus.org"]["scope"] == "openid"
    assert all(token["refresh_token"] for token in tokens.values())
    assert answer.json()["id_token"]
    told = userinfo(tokens["auth.globus.org"]["access_token"]).json()
    assert told["preferred_username"] == person.username
    assert "used before" in refused(exchange(code, link), 400, "invalid_grant")


@pytest.mark.parametrize(
    "other",
    [
        {"code_verifier": "x" * 64},
        {"code_verifier": ""},
        {"redirect_uri": f"{URL}/elsewhere"},
        {"code": "y" * 43},
    ],
    ids=["verifier", "no-verifier", "redirect", "code"],
)
def test_a_code_is_bound_to_its_request(person: Person, other: dict[str, str]):
    link = Link()
    code = WebUser().code_for(link, person)
    refused(exchange(code, link, **other), 400, "invalid_grant")
    if "code" not in other:
        # Who tried it with what was wrong has spent it.
        refused(exchange(code, link), 400, "invalid_grant")


def test_a_code_is_bound_to_the_public_client(services: Services, person: Person):
    link = Link()
    code = WebUser().code_for(link, person)
    program = services.researcher("program", "program@example.org")
    answer = exchange(
        code,
        link,
        client_id=program.client["client_id"],
        client_secret=program.client["client_secret"],
    )
    refused(answer, 400, "unsupported_grant_type")
    tokens_of(exchange(code, link))


def test_without_offline_access_no_login_is_stored(person: Person):
    link = Link({"access_type": "online"})
    tokens = tokens_of(exchange(WebUser().code_for(link, person), link))
    assert not any("refresh_token" in token for token in tokens.values())


def revoke(token: str) -> None:
    fields = {"client_id": CLIENT, "token": token}
    answer = httpx.post(f"{URL}/v2/oauth2/token/revoke", data=fields, timeout=PATIENCE_S)
    assert answer.status_code == 200


def test_a_login_gives_new_tokens_until_it_is_revoked(person: Person):
    link = Link()
    first = tokens_of(exchange(WebUser().code_for(link, person), link))["auth.globus.org"]
    answer = refresh(first["refresh_token"])
    document = answer.json()
    assert document["other_tokens"] == []
    assert document["refresh_token"] == first["refresh_token"]
    assert document["access_token"] != first["access_token"]
    assert userinfo(document["access_token"]).status_code == 200
    revoke(document["access_token"])
    assert userinfo(document["access_token"]).status_code == 401
    assert userinfo(first["access_token"]).status_code == 200
    revoke(first["refresh_token"])
    assert "log in again" in refused(refresh(first["refresh_token"]), 400, "invalid_grant")


def test_the_public_client_gets_nothing_by_itself(services: Services):
    fields = {"client_id": CLIENT, "grant_type": "client_credentials"}
    answer = httpx.post(f"{URL}/v2/oauth2/token", data=fields, timeout=PATIENCE_S)
    refused(answer, 400, "unsupported_grant_type")
    assert CLIENT not in services.cli("client", "list").stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"redirect_uri": "https://evil.example/v2/web/auth-code"}, "not ours"),
        ({"redirect_uri": "http://localhost:5000@evil.example/v2/web/auth-code"}, "not ours"),
        ({"redirect_uri": f"{CODE_PAGE}/../../evil"}, "not ours"),
        ({"redirect_uri": "https://localhost:5000/v2/web/auth-code"}, "not ours"),
        ({"client_id": "00000000-0000-4000-8000-000000000000"}, "not known here"),
        ({"scope": "https://example.org/all"}, "not known here"),
        ({"response_type": "token"}, "response_type"),
        ({"code_challenge": ""}, "code_challenge"),
        ({"code_challenge_method": "plain"}, "code_challenge_method"),
        ({"session_required_mfa": "True"}, "second factor"),
    ],
    ids=str,
)
def test_a_bad_link_is_explained_and_leads_nowhere(
    services: Services, asked: dict[str, str], said: str
):
    answer = httpx.get(Link(asked).url, timeout=PATIENCE_S)
    assert answer.status_code == 400
    assert said in answer.text
    assert "<form" not in answer.text


def test_the_code_page_of_a_forwarder_is_ours_too(person: Person):
    link = Link({"redirect_uri": "http://127.0.0.1:5000/v2/web/auth-code"})
    code = WebUser().code_for(link, person)
    tokens_of(exchange(code, link, redirect_uri="http://127.0.0.1:5000/v2/web/auth-code"))


def test_what_a_link_says_is_shown_as_text(services: Services):
    link = Link({"session_message": "<script>alert(1)</script>", "prefill_named_grant": "<b>x"})
    answer = httpx.get(link.url, timeout=PATIENCE_S)
    assert "&lt;script&gt;" in answer.text
    assert "<script" not in answer.text
    assert "<b>" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    code_page = httpx.get(f"{CODE_PAGE}?code=<script>", timeout=PATIENCE_S)
    assert code_page.status_code == 400
    assert "<script" not in code_page.text


def test_forms_of_other_sites_do_nothing(person: Person):
    link = Link()
    user = WebUser()
    fields = {"step": "sign-in", "username": person.username, "password": person.password}
    answer = user.http.post(link.url, data=fields)
    assert answer.status_code == 403
    assert "out of date" in answer.text
    assert user.sign_in(link.url, person).status_code == 200
    other = WebUser().http.get(link.url).text
    stolen = other.split('name="form_token" value="')[1].split('"')[0]
    for token in ("", stolen):
        answer = user.http.post(link.url, data={"step": "allow", "form_token": token})
        assert answer.status_code == 403
        assert "code=" not in str(answer.url)


def test_nobody_signs_in_by_guessing(services: Services):
    link = Link()
    person = Person(services, "dave@example.org")
    person.create()
    guesser = Person(services, person.username, "guess")
    user = WebUser()
    for _ in range(5):
        answer = user.sign_in(link.url, guesser)
        assert answer.status_code == 403
        assert "user name or the password is wrong" in answer.text
    answer = user.sign_in(link.url, person)
    assert answer.status_code == 429
    assert "Try again in 15 minutes" in answer.text
    nobody = Person(person.services, "nobody@example.org")
    assert "user name or the password is wrong" in user.sign_in(link.url, nobody).text


def test_a_session_that_will_not_do_is_asked_to_sign_in_again(person: Person):
    user = WebUser()
    user.sign_in(Link().url, person)
    assert "Allow access?" in user.http.get(Link().url).text
    again = Link({"prompt": "login", "session_message": "Be fresh"})
    shown = user.http.get(again.url).text
    assert "Sign in again" in shown
    assert "Be fresh" in shown
    answer = user.send(again.url, step="allow")
    assert "Sign in again" in answer.text
    assert "Allow access?" in user.sign_in(again.url, person).text
    domain = Link({"session_required_single_domain": "example.com,example.net"})
    assert "example.com or example.net" in user.http.get(domain.url).text
    fitting = Link({"session_required_single_domain": "example.org"})
    assert "Allow access?" in user.http.get(fitting.url).text
    other = Link({"session_required_identities": "7b7c6cc1-67a3-4c2c-a4e2-0a8c8b0f8f7d"})
    assert "not the identity" in user.http.get(other.url).text


def test_linked_accounts_are_one_person(services: Services, person: Person):
    other = Person(services, f"also-{person.username}")
    other.create("--linked-to", person.username)
    link = Link()
    tokens = tokens_of(exchange(WebUser().code_for(link, other), link))
    told = userinfo(tokens["auth.globus.org"]["access_token"]).json()
    assert {each["username"] for each in told["identity_set"]} == {
        person.username,
        other.username,
    }


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [("a b", "long enough", "without blanks"), ("short@example.org", "short", "8 to 1024")],
)
def test_names_and_passwords_are_checked(services: Services, name: str, password: str, said: str):
    done = services.cli(
        "account", "create", name, "--password-stdin", given=f"{password}\n", check=False
    )
    assert done.returncode == 64
    assert said in done.stderr
    no_terminal = services.cli("account", "create", "x@example.org", given="", check=False)
    assert "--password-stdin" in no_terminal.stderr
