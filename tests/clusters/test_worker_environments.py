# SPDX-License-Identifier: Apache-2.0
"""Workers in environments that are none of ours: they work, or their tasks end and say why not.

``tools/worker-environments`` makes these; WORKER_ENVIRONMENTS is where they are.
"""

from __future__ import annotations

import builtins
import json
import os
import time
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from globus_compute_sdk.serialize import AllCodeStrategies, DillCode

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value

pytestmark = pytest.mark.timeout(120)

ENVIRONMENTS = Path(os.environ.get("WORKER_ENVIRONMENTS", ""))
PLAIN = f"source {ENVIRONMENTS}/plain/bin/activate"
OLD = ENVIRONMENTS / "old-parsl"
OTHER = ENVIRONMENTS / "python3.13/usr"
SOON = 10.0  # seconds


def about(number: int) -> tuple[list[float], str, str, bool]:
    import importlib.util
    import math
    import sys

    roots = [math.sqrt(each) for each in range(number)]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    ours = importlib.util.find_spec("globus_compute_endpoint") is not None
    return roots, sys.executable, version, ours


def bytecode() -> str:
    """The function as the SDK sends it by default, from a session or a script."""
    made = FunctionType(about.__code__, {"__name__": "__main__", "__builtins__": builtins})
    return str(DillCode().serialize(made))


def start(harness: Harness, worker_init: str, **engine: Any) -> None:
    """Start an endpoint whose workers see what worker_init makes, and nothing of the test's."""
    options = {
        "type": "GlobusComputeEngine",
        "max_workers_per_node": 1,
        "provider": {"type": "LocalProvider", "worker_init": f"unset PYTHONPATH\n{worker_init}"},
        **engine,
    }
    harness.start(f"engine: {json.dumps(options)}\n")


@pytest.mark.parametrize(
    ("worker_init", "python"),
    [
        (f"source {os.environ.get('PEER_VENV')}/bin/activate", os.environ.get("PEER_VENV", "")),
        (f"source {ENVIRONMENTS}/conda/etc/profile.d/conda.sh && conda activate science", "conda"),
        (PLAIN, "plain"),
    ],
    ids=["the public endpoint package", "conda", "Parsl and the SDK alone"],
)
def test_what_has_parsl_and_the_sdk_works(harness: Harness, worker_init: str, python: str):
    start(harness, worker_init)
    task = harness.submit(about, 3)
    second = harness.submit(bytecode(), 3)
    roots, executable, _, ours = value(harness, task)
    assert roots == [0.0, 1.0, 2**0.5]
    assert python in executable
    assert ours is ("peer" in python)
    assert value(harness, second)[0] == roots


def test_another_python_runs_source_and_refuses_bytecode(harness: Harness):
    start(harness, f"export PATH={OTHER}/bin:$PATH")
    roots, executable, version, _ = value(harness, harness.submit(about, 3))
    assert (roots, version) == ([0.0, 1.0, 2**0.5], "3.13")
    both = harness.submit(AllCodeStrategies().serialize(about), 3)
    assert value(harness, both)[0] == roots
    began = time.monotonic()
    code, text = error_of(harness, harness.submit(bytecode(), 3))
    assert time.monotonic() - began < SOON
    assert code == "PythonMismatch"
    assert "is bytecode of Python 3.11" in text
    assert f"this worker has Python 3.13.5 ({executable})" in text
    assert "AllCodeStrategies" in text
    assert value(harness, harness.submit(about, 2))[1] == executable  # its worker goes on


@pytest.mark.parametrize(
    ("worker_init", "told"),
    [
        (
            f"export PATH={OLD}/bin:$PATH PYTHONPATH={OLD}/lib",
            ("its Parsl is 2026.04.06 (Python 3.11.", "the endpoint's is 20", "Install parsl==20"),
        ),
        ("export PATH=/usr/bin:/bin", ("it has no Parsl", "in /usr/bin:/bin", "Install parsl and")),
    ],
    ids=["another Parsl", "none"],
)
def test_what_does_not_fit_is_told_to_each_task(
    harness: Harness, worker_init: str, told: tuple[str, ...]
):
    start(harness, worker_init)
    began = time.monotonic()
    tasks = [harness.submit(about, 3) for _ in range(3)]
    for each in tasks:
        code, text = error_of(harness, each)
        assert code == "NoWorkers"
        assert [part for part in told if part not in text] == []
    assert time.monotonic() - began < SOON + 2  # what the endpoint itself takes to start
    began = time.monotonic()
    _, text = error_of(harness, harness.submit(about, 3))  # and so to later ones
    assert told[0] in text
    assert time.monotonic() - began < SOON


def test_an_environment_without_the_sdk_is_told_to_each_task(harness: Harness, tmp_path: Path):
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for name in ("globus_compute_common", "globus_compute_sdk"):
        (lacking / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    start(harness, f"{PLAIN}\nexport PYTHONPATH={lacking}")
    for _ in range(2):
        code, text = error_of(harness, harness.submit(about, 3))
        assert code == "WorkerDefect"
        assert "lacks the module globus_compute_common: install globus-compute-sdk" in text


def test_a_worker_init_which_fails_is_told_to_each_task(harness: Harness):
    start(harness, "module load no-such-environment || exit 3")
    began = time.monotonic()
    _, text = error_of(harness, harness.submit(about, 3))
    assert "module: command not found" in text
    assert "Check worker_init" in text
    assert time.monotonic() - began < 1.5 * SOON  # three blocks, one after the other
