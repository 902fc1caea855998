# SPDX-License-Identifier: Apache-2.0
"""The public endpoint package, unmodified, as it comes from PyPI, against these services.

It is run and nothing else. PEER_VENV says where it is installed.
"""

import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.harness import PATIENCE_S, Researcher

PEER = Path(os.environ.get("PEER_VENV", "/var/cache/globus-compute-tests/peer")) / "bin"
LOCAL_USER = "researcher"
TEMPLATE = """\
engine:
  type: ThreadPoolEngine
  max_workers: 2
idle_heartbeats_soft: 10
"""
MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example.org", "output": LOCAL_USER}],
    }
]
SCRIPT = """
import json, sys
from globus_compute_sdk import Executor

def who(number):
    import os
    return number, os.getuid()

with Executor(sys.argv[1], user_endpoint_config={}) as executor:
    futures = [executor.submit(who, number) for number in range(10)]
    print(json.dumps([future.result(60) for future in futures]))
"""


@pytest.fixture(scope="module")
def local_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(LOCAL_USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", LOCAL_USER], check=True, timeout=60)
        return pwd.getpwnam(LOCAL_USER)


@contextmanager
def peer(owner: Researcher, name: str, user: pwd.struct_passwd) -> Iterator[str]:
    """Run endpoint ``name`` of ``user``, who configured it; gives its id."""
    directory = Path(user.pw_dir) / ".globus_compute" / name
    environment = owner.environment() | {
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "PATH": f"{PEER}:{os.environ['PATH']}",
    }
    del environment["GLOBUS_COMPUTE_USER_DIR"]
    log = owner.home / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PEER / "globus-compute-endpoint", "start", name],
            env=environment,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd=user.pw_dir,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (directory / "endpoint.json").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield json.loads((directory / "endpoint.json").read_text())["endpoint_id"]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def configure(user: pwd.struct_passwd, name: str, config: dict[str, str]) -> None:
    directory = Path(user.pw_dir) / ".globus_compute" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(json.dumps(config))
    (directory / "user_config_template.yaml.j2").write_text(TEMPLATE)
    (directory / "user_environment.yaml").write_text(json.dumps({"PATH": f"{PEER}:/usr/bin:/bin"}))
    (directory / "mapping.json").write_text(json.dumps(MAPPING))
    for path in (directory.parent, directory, *directory.iterdir()):
        shutil.chown(path, user.pw_uid, user.pw_gid)


def wait_until_online(owner: Researcher, endpoint: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    path = f"/v2/endpoints/{endpoint}/status"
    while owner.done("GET", path)["status"] != "online":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_single_user(alice: Researcher, local_user: pwd.struct_passwd) -> None:
    configure(local_user, "single", {"display_name": "single"})
    with peer(alice, "single", local_user) as endpoint:
        wait_until_online(alice, endpoint)
        ran = alice.sdk(SCRIPT, endpoint, timeout=120)
    assert ran == [[number, local_user.pw_uid] for number in range(10)]


def test_multi_user_with_identity_mapping(
    alice: Researcher, bob: Researcher, local_user: pwd.struct_passwd
) -> None:
    root = pwd.getpwnam("root")
    mapping = f"{root.pw_dir}/.globus_compute/multi/mapping.json"
    configure(
        root,
        "multi",
        {
            "display_name": "multi",
            "email": "root@example.org",
            "identity_mapping_config_path": mapping,
        },
    )
    with peer(alice, "multi", root) as endpoint:
        wait_until_online(alice, endpoint)
        ran = bob.sdk(SCRIPT, endpoint, timeout=120)
    assert ran == [[number, local_user.pw_uid] for number in range(10)]
