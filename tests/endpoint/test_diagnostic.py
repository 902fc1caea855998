# SPDX-License-Identifier: Apache-2.0
"""``diagnostic``, and the SDK's own, where real services and an endpoint of a person run."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from endpoint.personal import Person

pytestmark = pytest.mark.timeout(150)

_CONFIG = """
engine:
  type: GlobusComputeEngine
  provider:
    type: LocalProvider
    worker_init: |
      export SITE_API_TOKEN=HUSH-hush-1
      export EDITOR=vi
"""


def collected(path: Path) -> dict[str, str]:
    """The members of an archive by their names below its top."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found


def results(document: dict[str, Any]) -> dict[str, bool | None]:
    return {check["name"]: check["ok"] for check in document["checks"]}


def test_an_endpoint_which_is_well(site: Person):
    site.configure("mine", _CONFIG)
    (site.endpoints / "mine" / "user_environment.yaml").write_text("LICENSE: HUSH-hush-2\n")
    (site.endpoints / "storage.db").write_text("HUSH-hush-3")
    (site.endpoints / "mine" / "storage.db").write_text("HUSH-hush-3")
    endpoint_id = site.told("start", "mine").rsplit(" ", 1)[1].strip()

    document = json.loads(site.told("diagnostic", "mine", "--json", "-o", "collected.tar.gz"))

    assert results(document) == {
        "configuration of mine": True,
        "REST: TCP localhost:5000": True,
        "REST: GET /v2/version": True,
        "sign-in: TCP localhost:5000": True,
        "AMQP: TCP 127.0.0.1:5672": True,
        "AMQP: handshake": True,
    }
    archive = site.home / "collected.tar.gz"
    assert archive.stat().st_mode & 0o777 == 0o600
    members = collected(archive)
    assert json.loads(members["checks.json"]) == document["checks"]
    assert "type: GlobusComputeEngine" in members["endpoints/mine/config.yaml"]
    assert "export EDITOR=vi" in members["endpoints/mine/config.yaml"]
    assert f"Endpoint begins: {endpoint_id}" in members["endpoints/mine/endpoint.log"]
    assert any(name.endswith("interchange.log") for name in members)
    assert '"Running"' in members["list.txt"]
    assert site.client["identity_id"] in members["whoami.txt"]
    assert "globus-compute-sdk 4." in members["machine/versions.txt"]
    assert "systemd" in members["machine/systemd.txt"]
    assert members["endpoints/mine/user_environment.yaml"] == "LICENSE: <removed>\n"
    assert not [name for name in members if "storage" in name]
    for secret in ("HUSH", site.client["client_secret"]):
        assert not [name for name, text in members.items() if secret in text]

    again = site.run("diagnostic", "mine", "-o", "collected.tar.gz")
    assert (again.returncode, "File exists" in again.stderr) == (73, True)
    table = site.told("diagnostic")  # of all endpoints, into a file of its own choice
    assert "| AMQP: handshake" in table
    assert len(list(site.home.glob("globus-compute-diagnostic-*.tar.gz"))) == 1


def test_what_is_not_well_is_told_with_what_to_do(site: Person):
    site.configure("mine", "engine: {type: ThreadPoolEngin}\namqp_port: 1\n")
    done = site.run("diagnostic", "mine")
    assert done.returncode == 75
    assert "engine.type (line 1): there is no ThreadPoolEngin" in done.stdout
    assert "| AMQP: TCP localhost:1       | FAILED | Connection refused" in done.stdout
    assert "AMQP: TCP localhost:1: is outbound traffic to port 1 allowed?" in done.stdout
    assert "Traceback" not in done.stderr
    missing = site.run("diagnostic", "yours")
    assert (missing.returncode, "there is no endpoint yours" in missing.stderr) == (78, True)


def test_the_sdks_own_diagnostic_works_with_ours(site: Person):
    site.configure("mine", "engine: {type: ThreadPoolEngine}\n")
    endpoint_id = site.told("start", "mine").rsplit(" ", 1)[1].strip()
    programs = site.home / "bin"
    programs.mkdir()
    ours = programs / "globus-compute-endpoint"
    ours.write_text(f'#!/bin/sh\nexec {sys.executable} -m globus_compute_endpoint "$@"\n')
    ours.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "globus_compute_sdk.sdk.diagnostic", "-e", endpoint_id],
        env=site.environment | {"PATH": f"{programs}:{os.environ['PATH']}"},
        cwd=site.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (written,) = site.home.glob("globus_compute_diagnostic_*.txt.gz")
    text = gzip.decompress(written.read_bytes()).decode()
    whoami = text.partition("Diagnostic: globus-compute-endpoint whoami ==")[2].partition("\n==")[0]
    assert site.client["identity_id"] in whoami
    listed = text.partition("Diagnostic: globus-compute-endpoint list ==")[2].partition("\n==")[0]
    assert f"| {endpoint_id} | Running" in listed
    assert f"Endpoint begins: {endpoint_id}" in text
    assert "Endpoint simple function execution result:\n  Hello world from Globus Compute" in text
