# SPDX-License-Identifier: Apache-2.0
"""Parsl's worker pool on a node, run by way of our own code, or as it is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq
from parsl import curvezmq
from parsl.executors.high_throughput import probe, process_worker_pool
from parsl.launchers import MpiExecLauncher
from parsl.version import VERSION

from globus_compute_endpoint.worker.pool import dialect, is_known, probe_without_name
from globus_compute_endpoint.worker.shipping import UNFIT, pool_command

SHOW = "import os, sys; print(sys.executable, *sys.argv[1:], 'GLOBUS_COMPUTE_POOL' in os.environ)"
PARSL = Path(str(process_worker_pool.__file__)).read_text()


def run(
    directory: Path, first_lines: str, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a pool's stand-in, which is of no known shape, as a block does, in ``home``."""
    program = directory / "process_worker_pool.py"
    program.write_text(f"{first_lines}\n{SHOW}\n")
    program.chmod(0o755)
    (directory / "python3").symlink_to("/usr/bin/python3")
    mpiexec = directory / "mpiexec"
    mpiexec.write_text('#!/bin/sh\nfor last; do :; done; exec sh "$last"\n')
    mpiexec.chmod(0o755)
    command = f"{pool_command()} --port=1 'a b'"
    # Parsl fills in twice, and then its launchers put the command into a here-document.
    script = MpiExecLauncher(debug=True)(command.format().format(), 1, 1, str(directory))
    return subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=home or directory,
        env=os.environ | {"PATH": f"{directory}:/usr/bin:/bin", "JOBNAME": "block"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    "first_lines",
    [
        f"#!{sys.executable}",
        f"#!/usr/bin/env -S {sys.executable} -s",
        f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''",
    ],
    ids=["plain", "env", "pip's for long paths"],
)
def test_the_pool_of_another_parsl_runs_as_it_is(tmp_path: Path, first_lines: str):
    done = run(tmp_path, first_lines)
    assert f"{sys.executable} --port=1 a b False" in done.stdout.splitlines()
    assert "not of a Parsl known here" in done.stderr


def test_a_program_without_a_python_of_its_own_is_run_nevertheless(tmp_path: Path):
    script = f"#!/bin/sh\nexec {shlex.quote(sys.executable)} - \"$@\" <<'END'"
    done = run(tmp_path, script)
    assert f"{sys.executable} --port=1 a b False" in done.stdout.splitlines()
    assert done.stderr == ""


def test_no_program(tmp_path: Path):
    done = subprocess.run(
        ["/bin/sh", "-c", pool_command()],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 127
    assert done.stderr.startswith(f"{UNFIT} it has no Parsl: no process_worker_pool.py is in /usr")


def unfit(directory: Path, version: str) -> str:
    """What a pool says that does not know its options, of an environment with another Parsl."""
    package = directory / "parsl"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "version.py").write_text(f"VERSION = {version!r}\n")
    program = directory / "process_worker_pool.py"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit(2)\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", pool_command()],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    return "".join(line for line in done.stderr.splitlines() if line.startswith(UNFIT))


def test_both_versions_are_told_where_a_pool_does_not_know_its_options(tmp_path: Path):
    told = unfit(tmp_path, "2020.1.1")
    assert "its Parsl is 2020.1.1 (Python 3.11" in told
    assert sys.executable in told
    assert f"Install parsl=={VERSION} there" in told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ix_sock.send(results_sock.recv())", "ix_sock.send_multipart([b'', results_sock.recv()])"),
        ("tasks = pickle.loads(pkl_msg)", "tasks, _ = pickle.loads(pkl_msg)"),
        ("SHUTDOWN_CODE = (2 ** 32) - 2", "SHUTDOWN_CODE = (2 ** 32) - 3"),
    ],
)
def test_a_pool_that_would_pass_on_tasks_or_results_otherwise_is_not_run(old: str, new: str):
    assert old in PARSL
    assert dialect(PARSL.replace(old, new)) != dialect(PARSL)


def test_a_pool_that_differs_in_nothing_of_this_is_run():
    assert dialect(PARSL.replace("SHUTDOWN_CODE", "DRAINED_CODE")) == dialect(PARSL)


def test_an_option_of_the_sites_own_is_no_matter_of_versions(tmp_path: Path):
    assert unfit(tmp_path, VERSION) == ""


def test_files_where_a_block_runs_are_no_modules(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("base64", "zlib", "shlex", "runpy", "selectors"):
        (home / f"{name}.py").write_text("raise SystemExit('not the module that was meant')")
    done = run(tmp_path, f"#!{sys.executable}", home)
    assert f"{sys.executable} --port=1 a b False" in done.stdout.splitlines()


def test_our_parsl_is_known():
    assert is_known(PARSL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SpawnContext.Value", "multiprocessing.Value"),
        ("self.monitoring_queue = self._mp_manager.Queue()", ""),
        ("result_queue.put(pkl_package)", "result_queue.put_nowait(pkl_package)"),
    ],
)
def test_a_pool_that_has_changed_is_not(old: str, new: str):
    assert old in PARSL
    assert not is_known(PARSL.replace(old, new))


def test_a_pool_does_not_look_for_the_interchange_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(probe, "probe_addresses", probe.probe_addresses)  # and put it back
    probe_without_name()
    seen = []
    with zmq.Context() as context, context.socket(zmq.ROUTER) as interchange:
        url = f"tcp://127.0.0.1:{interchange.bind_to_random_port('tcp://127.0.0.1')}"

        def answer() -> None:
            name, _ = interchange.recv_multipart()
            seen.append(name)
            interchange.send_multipart([name, b""])

        answering = threading.Thread(target=answer)
        answering.start()
        found = probe.probe_addresses(
            curvezmq.ClientContext(None), {url}, timeout_ms=10_000, identity=b"pool"
        )
        answering.join(10)
    assert found == url
    assert len(seen) == 1
    assert seen != [b"pool"]
