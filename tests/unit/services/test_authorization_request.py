# SPDX-License-Identifier: Apache-2.0
import pytest

from globus_compute_services.auth.request import NotAcceptable, own_address, parse_request
from globus_compute_services.settings import HttpSettings

SITE = HttpSettings(public_url="https://compute.example.org/")
# a name of the hosted services, which is ours by private DNS and certificate
OWN = "https://auth.globus.org"
ASKED = {
    "client_id": "4cf29807-cf21-49ec-9443-ff9a3fb9f81c",
    "redirect_uri": "https://compute.example.org/v2/web/auth-code",
    "scope": "openid urn:globus:auth:scope:auth.globus.org:manage_projects",
    "response_type": "code",
    "code_challenge": "x" * 43,
    "code_challenge_method": "S256",
}


def test_scopes_are_told_one_by_one():
    assert parse_request(ASKED, SITE, OWN).scopes() == ASKED["scope"].split()


@pytest.mark.parametrize(
    "uri",
    [
        "https://compute.example.org/v2/web/auth-code",
        "https://auth.globus.org/v2/web/auth-code",
        "http://localhost:5000/v2/web/auth-code",
        "http://127.0.0.1:8080/v2/web/auth-code",
        "http://[::1]:5000/v2/web/auth-code",
    ],
)
def test_codes_are_shown_by_us_and_at_the_end_of_forwarders(uri: str):
    assert parse_request({**ASKED, "redirect_uri": uri}, SITE, OWN).redirect_uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://compute.example.org/v2/web/auth-code",
        "https://compute.example.org/v2/web/auth-code/",
        "https://compute.example.org/v2/web/auth-code?x=1",
        "https://compute.example.org.evil.example/v2/web/auth-code",
        "http://localhost.evil.example:5000/v2/web/auth-code",
        "http://user@localhost:5000/v2/web/auth-code",
        "http://localhost:5000/other",
        "http://localhost:5000/v2/web/auth-code#x",
        "http://localhost:x/v2/web/auth-code",
        "http://[::1/v2/web/auth-code",
        "javascript://localhost:5000/v2/web/auth-code",
        "",
    ],
)
def test_codes_go_nowhere_else(uri: str):
    with pytest.raises(NotAcceptable):
        parse_request({**ASKED, "redirect_uri": uri}, SITE, OWN)


@pytest.mark.parametrize(
    ("scheme", "host", "url"),
    [
        ("https", "compute.example.org", "https://compute.example.org"),
        ("https", "auth.globus.org", "https://auth.globus.org"),
        ("https", "auth.globus.org/evil", "https://compute.example.org"),
        ("https", "", "https://compute.example.org"),
        ("http", "evil.example", "https://compute.example.org"),
        ("http", "localhost:5000", "http://localhost:5000"),
        ("http", "[::1]:5000", "http://[::1]:5000"),
        ("http", "localhost:x", "https://compute.example.org"),
        ("http", "[::1:5000", "https://compute.example.org"),
        ("http", "", "https://compute.example.org"),
    ],
)
def test_addresses_fit_who_asks(scheme: str, host: str, url: str):
    assert own_address(scheme, host, SITE) == url
