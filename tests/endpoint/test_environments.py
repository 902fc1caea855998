# SPDX-License-Identifier: Apache-2.0
"""What a configuration can do to where tasks run: before, around and after them."""

from __future__ import annotations

import signal
import time

import pytest

from endpoint.personal import Person

pytestmark = pytest.mark.timeout(150)

_LOOK = """
import json, sys
from globus_compute_sdk import Executor

def look():
    import os
    names = ("FROM_WORKER_INIT", "FROM_ENDPOINT_SETUP", "MADE_BEFORE")
    return [os.environ.get(name) for name in names]

with Executor(endpoint_id=sys.argv[1]) as executor:
    future = executor.submit(look)
    print(json.dumps(str(future.exception(90) or future.result())))
"""
_LOSE_WORKERS = """
import json, sys
from globus_compute_sdk import Executor

def once(path):
    import os
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(3)
    return "the second time"

def always():
    import os
    os._exit(3)

with Executor(endpoint_id=sys.argv[1]) as executor:
    again = executor.submit(once, "lost-once").result(60)
    lost = executor.submit(always).exception(60)
print(json.dumps([again, str(lost)]))
"""

_SCRIPTS = """
endpoint_setup: |
  echo preparing the environment
  export FROM_ENDPOINT_SETUP=leaked
  echo "export MADE_BEFORE=yes" >made-by-setup
endpoint_teardown: |
  rm made-by-setup && echo cleaned up
  echo alas >&2
  exit 5
engine:
  type: HighThroughputEngine
  max_retries_on_system_failure: 1
  heartbeat_period: 1
  provider:
    type: LocalProvider
    worker_init: |
      export FROM_WORKER_INIT="a value"
      . $HOME/made-by-setup
"""


def test_scripts_before_around_and_after_the_workers(site: Person):
    site.configure("mine", _SCRIPTS)
    started = site.run("start", "mine")
    assert started.returncode == 0, started.stderr
    assert "HighThroughputEngine is deprecated; GlobusComputeEngine" in started.stderr
    endpoint_id = started.stdout.rsplit(" ", 1)[1].strip()
    assert (site.home / "made-by-setup").exists()
    assert site.research(_LOOK, endpoint_id) == "['a value', None, 'yes']"
    again, lost = site.research(_LOSE_WORKERS, endpoint_id)
    assert again == "the second time"
    assert "It was tried 2 times:" in lost
    assert "WorkerLost" in lost
    site.told("stop", "mine")
    assert not (site.home / "made-by-setup").exists()
    log = (site.endpoints / "mine" / "endpoint.log").read_text()
    assert log.startswith("========== Endpoint begins: ")
    for line in (
        "HighThroughputEngine is deprecated",
        "endpoint_setup: preparing the environment\n",
        "endpoint_teardown: cleaned up\n",
        "endpoint_teardown: alas\n",
        "endpoint_teardown failed with exit status 5; it said: cleaned up\nalas",
    ):
        assert line in log


def test_a_setup_which_fails_ends_the_start(site: Person):
    script = "endpoint_setup: |\n  echo no such channel >&2\n  exit 3\n"
    site.configure("mine", f"{script}endpoint_teardown: touch torn-down\n")
    done = site.run("start", "mine")
    assert done.returncode == 78
    assert "Error: endpoint_setup failed with exit status 3; it said: no such cha" in done.stderr
    assert "endpoint_setup: no such channel" in (
        (site.endpoints / "mine" / "endpoint.log").read_text()
    )
    assert not (site.home / "torn-down").exists()
    assert site.status("mine") != "Running"


def test_a_signal_ends_a_setup_which_goes_on(site: Person):
    site.configure("mine", "endpoint_setup: sleep 300 & echo $! >pid; wait\n")
    process, _ = site.start("mine")
    deadline = time.monotonic() + 20
    while not (site.home / "pid").is_file() or not (site.home / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert site.status("mine") == "Stopped"


def test_a_worker_init_which_fails_is_in_the_researchers_error(site: Person):
    script = "echo conda is not here >&2; exit 4"
    provider = f"{{type: LocalProvider, worker_init: '{script}'}}"
    scaling = "{strategy_period: 1}"
    site.configure("mine", f"engine: {{provider: {provider}, job_status_kwargs: {scaling}}}\n")
    endpoint_id = site.told("start", "mine").rsplit(" ", 1)[1].strip()
    error = site.research(_LOOK, endpoint_id)
    assert "The last 3 blocks of workers have failed" in error
    assert "conda is not here" in error
    assert "Check worker_init" in error
