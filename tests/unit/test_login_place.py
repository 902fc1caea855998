# SPDX-License-Identifier: Apache-2.0
"""Where a login is looked up; what a gateway is given is tried on a whole host."""

from pathlib import Path

import pytest

from globus_compute_endpoint.cli.identity import login_place
from globus_compute_endpoint.problem import ExitStatus, Problem


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", str(tmp_path))
    (tmp_path / "mine").mkdir()
    return tmp_path


def test_without_a_name_the_environment_counts(home: Path):
    place = login_place(None)
    assert place.config.services.auth_url is None
    assert place.storage is None


def test_only_what_concerns_the_login_must_be_right(home: Path):
    (home / "mine" / "config.yaml").write_text(
        "engine: {type: NoSuchEngine}\nservices: {auth_url: 'https://auth.example.org'}\n"
    )
    assert str(login_place("mine").config.services.auth_url) == "https://auth.example.org/"
    (home / "mine" / "config.yaml").write_text("\nservices: {auth_url: 3}\n")
    with pytest.raises(Problem, match=r"services.auth_url \(line 2\)"):
        login_place("mine")


def test_an_endpoint_which_is_not_there_is_named(home: Path):
    with pytest.raises(Problem, match="no endpoint other") as caught:
        login_place("other")
    assert caught.value.exit_status is ExitStatus.CONFIGURATION
