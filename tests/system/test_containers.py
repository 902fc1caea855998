# SPDX-License-Identifier: Apache-2.0
"""Podman on the login node of a site, where user endpoints are the mapped user's."""

from __future__ import annotations

import json

import pytest

from support import podman
from system.conftest import WarmSite
from system.hosts import TREE
from system.test_templates import files

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

_PYTHON = "/usr/lib/globus-compute-endpoint/bin/python"
_SCRIPT = "/root/podman.py"
_TEMPLATE = f"""\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  container_type: podman
  container_uri: {podman.IMAGE}
"""


def where() -> tuple[int, bool]:
    import os

    return os.getuid(), os.path.exists("/run/.containerenv")


def containers(warm: WarmSite) -> list[str]:
    runtime = {"XDG_RUNTIME_DIR": f"/run/user/{warm.uids[podman.USER]}"}
    command = ("podman", "ps", "--all", "--quiet")
    told: str = warm.host.run(*command, user=podman.USER, environment=runtime).stdout
    return told.split()


def test_containers_are_the_mapped_users_unless_it_may_not_gain_rights(warm: WarmSite) -> None:
    warm.host.write(_SCRIPT, (TREE / "tests/support/podman.py").read_text())
    warm.host.run(_PYTHON, _SCRIPT, timeout=120)
    alice = warm.researcher(podman.USER)
    before = set(warm.scopes())
    # Each of its own: user endpoints outlive their manager, and one which was stopped may be back.
    template = {"user_config_template__yaml__j2": _TEMPLATE, "user_config_schema__json": "{}"}
    with files(warm, **template):
        assert alice.call(where, rights="all") == [0, True]  # root within is alice without
        assert len(containers(warm)) == 1
        (scope,) = set(warm.scopes()) - before
        warm.host.run("systemctl", "stop", scope)
        assert containers(warm) == []
    path = f"/etc/globus-compute-endpoint/{warm.name}/config.yaml"
    config = json.loads(warm.host.read(path)) | {"no_new_privs": True}
    with files(warm, **template, config__yaml=json.dumps(config)):
        error = alice.failure(where, rights="none")
        assert "podman cannot run here" in error
        assert "`no_new_privs: false`" in error
