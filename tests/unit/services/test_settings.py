# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.settings import BrokerSettings, load_settings

LEAST = f"broker: {{password: hidden}}\nkey: {'k' * 40}\n"


def test_what_need_not_be_said(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(LEAST)
    settings = load_settings(file)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 5000)
    assert settings.database_url.startswith("sqlite+aiosqlite:////var/lib/globus-compute-services/")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("broker: {password: hidden, nonsense: 1}\nkey: x\n", "broker.nonsense"),
        (LEAST + "http: {port: hidden}\n", "http.port"),
        ("broker: [\n", "not YAML"),
        ("", "broker"),
        ("- 1\n", "mapping|dictionary"),
    ],
)
def test_what_is_wrong_is_named_without_its_value(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(Problem, match=named) as caught:
        load_settings(file)
    assert caught.value.exit_status == ExitStatus.CONFIGURATION
    assert "hidden" not in str(caught.value)


def test_urls_hold_any_password() -> None:
    broker = BrokerSettings(password="p:/@?#%", client_host="mq.example.org")
    assert broker.own_url() == (
        "amqp://globus-compute-services:p%3A%2F%40%3F%23%25@127.0.0.1:5672/globus-compute"
    )
    assert broker.client_url("ep.1", "x") == "amqp://ep.1:x@mq.example.org:5672/globus-compute"
