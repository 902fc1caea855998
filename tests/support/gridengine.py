# SPDX-License-Identifier: Apache-2.0
"""Grid Engine in a test host, with this machine as its only node.

    with cluster():
        subprocess.run(["qsub", "-b", "y", "true"])

or, from outside of the host, `python3 tests/support/gridengine.py start|stop`. It needs root,
systemd and Debian's gridengine (PACKAGES), and nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("gridengine-master", "gridengine-exec", "gridengine-client")

_ROOT = Path("/var/lib/gridengine")
_HOSTS = Path("/etc/hosts")
_ADDRESS = "192.0.2.2"  # for documentation: nobody's. It refuses to live on loopback's
_PATIENCE = 30.0  # seconds
_QUEUE = {"qname": "all.q", "slots": "4", "pe_list": "NONE", "load_thresholds": "NONE"}


def start() -> None:
    """Start it and wait until its queue is open."""
    host = socket.gethostname().partition(".")[0]
    _give_address(host)
    (_ROOT / "default/common/act_qmaster").write_text(f"{host}\n")
    for each in (Path("/run/gridengine"), Path("/var/spool/gridengine/execd", host)):
        each.mkdir(exist_ok=True)
        _run("chown", "sgeadmin:", str(each))
    _start_daemon("sge_qmaster")
    _wait_for("qconf", "-sconf")
    for option in ("-ah", "-as"):
        _run("su", "-s", "/bin/sh", "sgeadmin", "-c", f"qconf {option} {host}", check=False)
    # Root may have jobs, and nothing waits for a scheduler which looks four times a minute.
    _change("-Mconf", "global", ("qconf", "-sconf"), {"min_uid": "0", "min_gid": "0"})
    soon = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
    _change("-Msconf", "scheduler", ("qconf", "-ssconf"), soon)
    _start_daemon("sge_execd")
    if "all.q" not in _run("qconf", "-sql", check=False):
        _change("-Aq", "queue", ("qconf", "-sq"), {**_QUEUE, "hostlist": host})
    _wait_for("qsub", "-b", "y", "-terse", "-w", "v", "true")


def stop() -> None:
    """Stop it and what runs by it."""
    _run("qdel", "-u", "*", check=False)
    for each in ("test-sge_execd", "test-sge_qmaster"):  # the master would take ten seconds
        _run("systemctl", "kill", "--signal=KILL", each, check=False)


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Grid Engine for as long as the context lasts."""
    try:
        start()
        yield
    finally:
        stop()


def jobs() -> dict[str, str]:
    """The names of all jobs which have not ended, by their numbers."""
    listed = _run("qstat", "-u", "*", "-r").splitlines()
    numbers = [words[0] for line in listed if (words := line.split()) and words[0].isdecimal()]
    names = [line.split()[-1] for line in listed if "Full jobname:" in line]
    return dict(zip(numbers, names, strict=True))


def _give_address(host: str) -> None:
    lines = [line for line in _HOSTS.read_text().splitlines() if _ADDRESS not in line]
    kept = [" ".join(word for word in line.split() if word != host) for line in lines]
    # In place: another file may not be put over one which is mounted.
    _HOSTS.write_text("\n".join([f"{_ADDRESS} {host}", *kept, ""]))
    _run("ip", "address", "replace", f"{_ADDRESS}/32", "dev", "lo")


def _start_daemon(name: str) -> None:
    # SGE_ND: in the foreground. A job's processes are the job's, and stay when the daemon goes.
    options = ["--quiet", "--collect", f"--unit=test-{name}", "--property=KillMode=process"]
    _run("systemd-run", *options, "-E", f"SGE_ROOT={_ROOT}", "-E", "SGE_ND=1", name)


def _change(option: str, name: str, show: tuple[str, ...], changes: Mapping[str, str]) -> None:
    """Change what ``show`` shows; it is handed over in a file."""
    lines = [line for line in _run(*show).replace("\\\n", " ").splitlines() if line[:1] not in "#"]
    table = dict(line.split(None, 1) for line in lines if len(line.split(None, 1)) == 2)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, name)
        file.write_text("".join(f"{key} {value}\n" for key, value in {**table, **changes}.items()))
        _run("qconf", option, str(file))


def _wait_for(*command: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            _run(*command)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
