# SPDX-License-Identifier: Apache-2.0
"""``init`` and the other commands, as an administrator runs them."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from services.harness import Services


@pytest.fixture
def fresh(tmp_path: Path) -> Services:
    return Services(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/services.sqlite3")


def test_init_again_changes_nothing(fresh: Services) -> None:
    fresh.initialize()
    written = fresh.config.read_text()
    assert fresh.config.stat().st_mode & 0o777 == 0o640
    assert (fresh.directory / "services.sqlite3").stat().st_mode & 0o777 == 0o600
    made = json.loads(fresh.cli("client", "create", "a", "--username", "a@b.c", "--json").stdout)
    fresh.initialize()
    assert fresh.config.read_text() == written
    listed = json.loads(fresh.cli("client", "list", "--json").stdout)
    assert [one["client_id"] for one in listed] == [made["client_id"]]
    assert made["client_secret"] not in (fresh.directory / "services.sqlite3").read_bytes().decode(
        "latin-1"
    )


def test_init_mends_a_broker_that_was_set_up_anew(
    fresh: Services, first_services: Services
) -> None:
    fresh.initialize(first_services)
    account = yaml.safe_load(fresh.config.read_text())["broker"]["username"]
    subprocess.run(["rabbitmqctl", "-q", "delete_user", account], check=True, timeout=60)
    subprocess.run(["rabbitmqctl", "-q", "add_user", "guest", "guest"], check=False, timeout=60)
    subprocess.run(
        ["rabbitmqctl", "-q", "set_user_tags", "guest", "administrator"], check=True, timeout=60
    )
    fresh.initialize()
    answer = httpx.get("http://127.0.0.1:15672/api/whoami", auth=("guest", "guest"))
    assert answer.status_code == 401, "everyone with a shell there would be an administrator"
    fresh.start()
    assert fresh.stop() == 0


def test_init_where_rabbitmq_is_not_running(fresh: Services, first_services: Services) -> None:
    fresh.initialize(first_services)
    subprocess.run(["systemctl", "stop", "rabbitmq-server"], check=True, timeout=120)
    try:
        done = fresh.cli("init", "--database-url", fresh.database_url, check=False)
    finally:
        subprocess.run(["systemctl", "start", "rabbitmq-server"], check=True, timeout=120)
    assert done.returncode == 69
    assert "systemctl start rabbitmq-server" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_wrong_with_the_configuration_is_said(fresh: Services) -> None:
    done = fresh.cli("serve", check=False)
    assert (done.returncode, "init" in done.stderr) == (78, True)
    fresh.config.write_text("broker: {password: secretive, prot: 1}\nkey: short\n")
    done = fresh.cli("serve", check=False)
    assert done.returncode == 78
    assert "broker.prot" in done.stderr
    assert "key" in done.stderr
    assert "secretive" not in done.stderr
    assert "short" not in done.stderr


def test_an_address_in_use(fresh: Services, first_services: Services) -> None:
    fresh.initialize(first_services)
    fresh.start()
    done = fresh.cli("serve", check=False)
    assert done.returncode == 69
    assert "Cannot listen on 127.0.0.1:5000" in done.stderr
    assert fresh.stop() == 0


def test_without_its_tables(fresh: Services, first_services: Services) -> None:
    fresh.initialize(first_services)
    (fresh.directory / "services.sqlite3").unlink()
    done = fresh.cli("serve", check=False)
    assert done.returncode == 69
    assert "globus-compute-services init" in done.stderr


def test_clients_and_environment(fresh: Services, first_services: Services) -> None:
    fresh.initialize(first_services)
    made = json.loads(fresh.cli("client", "create", "a", "--username", "a@b.c", "--json").stdout)
    assert "already" in fresh.cli("client", "create", "a", "--username", "x@y", check=False).stderr
    again = fresh.cli("client", "create", "b", "--username", "a@b.c", "--json")
    assert json.loads(again.stdout)["identity_id"] == made["identity_id"]
    script = fresh.cli("env", "--client", "a").stdout
    variables = subprocess.run(
        ["sh", "-c", f"{script}\nenv"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert "GLOBUS_SDK_ENVIRONMENT=local" in variables
    assert "GLOBUS_SDK_SERVICE_URL_AUTH=http://localhost:5000/" in variables
    assert f"GLOBUS_COMPUTE_CLIENT_ID={made['client_id']}" in variables
    fresh.cli("client", "delete", "a")
    assert "no client a" in fresh.cli("env", "--client", "a", check=False).stderr


def test_a_deleted_client_cannot_sign_in(fresh: Services, first_services: Services) -> None:
    fresh.initialize(first_services)
    fresh.start()
    researcher = fresh.researcher("a", "a@b.c")
    assert researcher.done("GET", "/v2/endpoints") == []
    fresh.cli("client", "delete", "a")
    researcher.refused(401, "GET", "/v2/endpoints")
    assert fresh.stop() == 0
