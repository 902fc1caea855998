# SPDX-License-Identifier: Apache-2.0
"""What one gets from a wheel without extras has nothing of systemd's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT = """
import importlib, sys
for name in ("systemd", "xattr", "globus_identity_mapping"):
    sys.modules[name] = None
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", ["user_manager.service", "cli.user_endpoint", "cli.render"])
def test_it_needs_no_extra(module: str):
    command = [sys.executable, "-c", _WITHOUT, f"globus_compute_endpoint.{module}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
