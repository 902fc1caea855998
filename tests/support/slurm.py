# SPDX-License-Identifier: Apache-2.0
"""A small Slurm cluster in a test host: as many nodes as wanted, all of them this machine.

    with cluster(nodes=2):
        subprocess.run(["sbatch", "--wrap", "true"])

or, from outside of the host, `python3 tests/support/slurm.py start|stop`. It needs root, systemd
and Debian's slurm-wlm (PACKAGES), and nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")

_CONFIGURATION = Path("/etc/slurm/slurm.conf")
_STATE = Path("/var/lib/slurm-test")
_PATIENCE = 30.0  # seconds
_FIRST_PORT = 17000
_ADDRESS = "192.0.2.1/32"  # for documentation: nobody's
_TEMPLATE = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
StateSaveLocation={state}/control
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
# No cgroups: a test host may have them all, or only some.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Do not let anything wait for a scheduler which looks once a minute.
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=2
ReturnToService=2
# A node which is lost is not to be waited for for five minutes.
SlurmdTimeout=10
# A node has CPUs as told, and not as found.
SlurmdParameters=config_overrides
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus}
PartitionName=debug Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE
PartitionName=short Nodes=n1 MaxTime=30
"""


def start(nodes: int = 2, cpus: int = 2) -> None:
    """Start the cluster and wait until all its nodes are idle."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    for each in ("control", *names):
        (_STATE / each).mkdir(parents=True, exist_ok=True)
    _CONFIGURATION.write_text(
        _TEMPLATE.format(
            host=socket.gethostname().partition(".")[0],
            state=_STATE,
            nodes=nodes,
            cpus=cpus,
            first=_FIRST_PORT + 1,
            last=_FIRST_PORT + nodes,
        )
    )
    # Where loopback is all there is, the resolver finds no address, not even 127.0.0.1's.
    _run("ip", "address", "replace", _ADDRESS, "dev", "lo")
    _run("systemctl", "start", "munge")
    start_controller(forget=True)
    for each in names:
        start_node(each)
    deadline = time.monotonic() + _PATIENCE
    while (states := _states()) != ["idle"] * nodes:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the nodes of the Slurm cluster are {states}")
        time.sleep(0.1)


def start_controller(*, forget: bool = False) -> None:
    """Start the controller, with the jobs it knows, or with none."""
    _run(*_unit("slurmctld"), "slurmctld", "-D", *(["-c", "-i"] if forget else []))


def stop_controller() -> None:
    """Have the controller away: no job is known, begins or is cancelled meanwhile."""
    _run("systemctl", "stop", "test-slurmctld")


def start_node(name: str) -> None:
    """Start a node's daemon."""
    _run(*_unit(f"slurmd-{name}"), "slurmd", "-D", "-N", name)


def mark_down(name: str) -> None:
    """Have the controller think that a node is lost, at once."""
    _run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")


def resume(name: str) -> None:
    """Undo :func:`mark_down`, if the node has not come back by itself."""
    _run("scontrol", "update", f"nodename={name}", "state=resume", check=False)


def lose_node(name: str) -> None:
    """Have a node go with all that runs on it."""
    _run("systemctl", "kill", "--signal=KILL", f"test-slurmd-{name}")


def stop() -> None:
    """Stop the cluster and what runs on it."""
    _run("scancel", "--user=root", "--quiet", check=False)
    # A node's daemon waits for ever for a step whose end it could not tell to anyone.
    _run("systemctl", "kill", "--signal=KILL", "test-slurmd-*", "test-slurmctld", check=False)
    _run("systemctl", "stop", "test-slurmd-*", "test-slurmctld", "munge", check=False)


@contextlib.contextmanager
def cluster(nodes: int = 2, cpus: int = 2) -> Iterator[None]:
    """A cluster for as long as the context lasts."""
    try:
        start(nodes, cpus)
        yield
    finally:
        stop()


def jobs(form: str = "%i %t %j") -> list[str]:
    """What squeue tells of jobs which have not ended, a line each."""
    return _run("squeue", "--noheader", f"--format={form}").splitlines()


def _states() -> list[str]:
    return _run(
        "sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t", check=False
    ).split()


def _unit(name: str) -> list[str]:
    # A job's processes are the job's: they are not to go with the node's daemon.
    return [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit=test-{name}",
        "--property=KillMode=process",
    ]


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
