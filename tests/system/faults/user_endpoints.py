# SPDX-License-Identifier: Apache-2.0
"""What befalls user endpoints and their workers: only what had begun may fail, and says why."""

from __future__ import annotations

import random

from system.faults.stage import Fault, Stage

ENGINES = ("ThreadPoolEngine", "ProcessPoolEngine", "GlobusComputeEngine", "Slurm")
CUT_SHORT = ("interrupted",)
LOST = ("interrupted", "worker lost")


def endpoints(stage: Stage, engine: str) -> list[str]:
    """The ids of the user endpoints with an engine which were started and have not ended."""
    starts = f"/var/lib/globus-compute-endpoint/{stage.warm.name}/starts"
    listed = stage.warm.host.run("grep", "-rl", engine, starts, check=False).stdout
    return sorted(path.rpartition("/")[2] for path in listed.split())


def processes(stage: Stage, endpoint: str) -> dict[int, str]:
    """The command lines of a user endpoint's processes by pid, itself first."""
    scope = f"globus-compute-uep-{endpoint}.scope"
    cgroup = stage.warm.property(scope, "ControlGroup")
    script = 'for pid in $(sort -n "$0"); do echo $pid $(tr "\\0" " " </proc/$pid/cmdline); done'
    path = f"/sys/fs/cgroup/systemd{cgroup}/cgroup.procs"
    listed = stage.warm.host.run("sh", "-c", script, path, check=False).stdout
    pairs = (line.partition(" ") for line in listed.splitlines())
    return {int(pid): line for pid, _, line in pairs}


def _kill(stage: Stage, pid: int) -> None:
    stage.warm.host.run("kill", "-KILL", str(pid), check=False)


def _kill_one(stage: Stage, rng: random.Random, engine: str) -> None:
    endpoint = rng.choice(endpoints(stage, engine))
    _kill(stage, min(processes(stage, endpoint)))


def _kill_endpoint(engine: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        _kill_one(stage, rng, engine)

    return Fault(f"kill -9 of a {engine}", inject, explains=CUT_SHORT)


def _kill_adopted(stage: Stage, rng: random.Random) -> None:
    stage.warm.host.run("systemctl", "restart", stage.unit())
    _kill_one(stage, rng, "ThreadPoolEngine")


def _kill_all(stage: Stage, rng: random.Random) -> None:
    """Those of all engines at once, and the manager with them."""
    mains = [
        min(processes(stage, endpoint))
        for engine in ENGINES
        for endpoint in endpoints(stage, engine)
    ]
    mains.append(int(stage.warm.property(stage.unit(), "MainPID")))
    stage.warm.host.run("kill", "-KILL", *map(str, mains), check=False)


def _kill_process(name: str, engine: str, text: str, *, last: bool = False) -> Fault:
    """Kill the first process of a user endpoint whose command line has a text, or the last."""

    def inject(stage: Stage, rng: random.Random) -> None:
        endpoint = rng.choice(endpoints(stage, engine))
        found = [pid for pid, line in processes(stage, endpoint).items() if text in line]
        _kill(stage, found[-1 if last else 0])

    return Fault(f"kill -9 of {name}", inject, explains=LOST)


def _misbehaving(name: str, engine: str, deed: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        stage.load.misbehave(engine, deed)

    return Fault(name, inject, explains=LOST)


USER_ENDPOINT_FAULTS = [
    *map(_kill_endpoint, ENGINES),
    Fault("kill -9 of an adopted one", _kill_adopted, explains=CUT_SHORT),
    Fault("kill -9 of all and the manager", _kill_all, explains=CUT_SHORT).only_in_soaks(),
    _misbehaving("a user endpoint out of memory", "ThreadPoolEngine", "hoard"),
]
WORKER_FAULTS = [
    _kill_process("a pool's worker", "ProcessPoolEngine", "", last=True),
    _kill_process("an interchange", "GlobusComputeEngine", "interchange"),
    _kill_process(
        "an HTEX worker pool", "GlobusComputeEngine", "process_worker_pool"
    ).only_in_soaks(),
    _kill_process("an HTEX worker", "GlobusComputeEngine", "spawn_main").only_in_soaks(),
    _misbehaving("poison for a process pool", "ProcessPoolEngine", "poison"),
    _misbehaving("poison for HTEX", "GlobusComputeEngine", "poison").only_in_soaks(),
    _misbehaving("a pool out of memory", "ProcessPoolEngine", "hoard").only_in_soaks(),
]
