# SPDX-License-Identifier: Apache-2.0
"""A manager which an ordinary user runs, against the real web services, with the unmodified SDK."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint.personal import Person

pytestmark = pytest.mark.timeout(150)

TEMPLATE = """\
engine:
  type: ThreadPoolEngine
  max_workers: 2
display_name: {{ ACCOUNT_ID }}
heartbeat_period: 1
"""

# Two configurations, one after the other: as the document does it.
_TWO = """
import json, os, sys
from globus_compute_sdk import Executor

def where():
    import os
    return os.getpid(), os.getuid(), dict(os.environ)

told = []
with Executor(endpoint_id=sys.argv[1]) as executor:
    for account in ("ABCD-1234", "WXYZ-7890"):
        executor.user_endpoint_config = {"ACCOUNT_ID": account}
        told.append(executor.submit(where).result(90))
    executor.user_endpoint_config = {"ACCOUNT_ID": "ABCD-1234"}
    told.append(executor.submit(where).result(90))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def account() -> str:
    name = f"dora{time.time_ns() % 10**8}"
    subprocess.run(["useradd", "--create-home", name], check=True, timeout=60)
    return name


@pytest.fixture
def site(client: dict[str, str], account: str, request: pytest.FixtureRequest) -> Iterator[Person]:
    home = Path("/home") / account / request.node.name
    home.mkdir()
    shutil.chown(home, account, account)
    person = Person(home, client, account)
    yield person
    person.stop_all()


@pytest.fixture
def manager(site: Person) -> Person:
    site.told("configure", "--multi-user", "mine")
    directory = site.endpoints / "mine"
    (directory / "user_config_template.yaml.j2").write_text(TEMPLATE)
    (directory / "config.yaml").write_text("display_name: mine\nheartbeat_period: 2\n")
    return site


def test_a_user_endpoint_for_each_configuration(manager: Person):
    said = manager.told("start", "mine")
    endpoint_id = said.split()[-1]
    first, second, again = manager.research(_TWO, endpoint_id)
    assert first[0] == again[0] != second[0]
