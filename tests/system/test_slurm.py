# SPDX-License-Identifier: Apache-2.0
"""Slurm on the login node of a site: jobs of the mapped user, as the template and they have it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

from system.conftest import WarmSite
from system.hosts import TREE
from system.test_templates import files

_TEMPLATE = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  heartbeat_period: 2
  heartbeat_threshold: 60
  provider:
    type: SlurmProvider
    account: {{ ACCOUNT }}
    partition: {{ PARTITION }}
    exclusive: false
    launcher: {type: SrunLauncher}
"""
_SCHEMA = {
    "type": "object",
    "required": ["ACCOUNT", "PARTITION"],
    "properties": {"ACCOUNT": {"type": "string"}, "PARTITION": {"enum": ["debug", "short"]}},
    "additionalProperties": False,
}
_SCRIPT = "/root/slurm.py"


def job():
    import getpass
    import os
    import subprocess

    number = os.environ["SLURM_JOB_ID"]
    command = ["squeue", "--noheader", "--format=%u %a %P", f"--jobs={number}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return number, getpass.getuser(), told


@contextlib.contextmanager
def cluster(warm: WarmSite) -> Iterator[None]:
    warm.host.write(_SCRIPT, (TREE / "tests/support/slurm.py").read_text())
    try:
        warm.host.run("python3", _SCRIPT, "start")
        yield
    finally:
        warm.host.run("python3", _SCRIPT, "stop")


def jobs(warm: WarmSite) -> set[str]:
    return set(warm.host.run("squeue", "--noheader", "--format=%i").stdout.split())


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def test_jobs_are_the_mapped_users_and_go_with_their_endpoint(warm):
    before = set(warm.scopes())
    asked = {"ACCOUNT": "physics", "PARTITION": "short"}
    with (
        cluster(warm),
        files(
            warm,
            user_config_template__yaml__j2=_TEMPLATE,
            user_config_schema__json=json.dumps(_SCHEMA),
        ),
    ):
        alice = warm.researcher("alice")
        number, user, told = alice.call(job, **asked)
        assert (user, told) == ("alice", ["alice", "physics", "short"])
        assert jobs(warm) == {number}
        (scope,) = set(warm.scopes()) - before
        warm.host.run("systemctl", "kill", "--signal=KILL", scope)
        assert jobs(warm) == {number}  # whom nobody answers any more
        another, _, _ = alice.call(job, **asked)
        assert another != number
        wait_for(lambda: jobs(warm) == {another}, 20)  # Slurm shows those which it still clears up
        (scope,) = set(warm.scopes()) - before
        warm.host.run("systemctl", "stop", scope)
        wait_for(lambda: not jobs(warm), 20)
