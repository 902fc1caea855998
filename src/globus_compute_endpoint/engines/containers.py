# SPDX-License-Identifier: Apache-2.0
"""Blocks whose workers run in containers: the command of each, and its container's end."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from globus_compute_endpoint.config.containers import (
    LAUNCH_COMMAND,
    RUN_DIRECTORY,
    ContainerOptions,
)
from globus_compute_endpoint.config.engines import BlocksEngineConfig
from globus_compute_endpoint.config.loading import WrongOption
from globus_compute_endpoint.engines.base import EngineContext
from globus_compute_endpoint.host import libc
from globus_compute_endpoint.worker.shipping import pool_command, pool_program

__all__ = ["Containers", "check_containers", "containers_of", "remove_containers"]

log = logging.getLogger(__name__)

_WITH_ENGINE = ("docker", "podman", "podman-hpc")  # which has the container, and not its client
_ROOTLESS = ("podman", "podman-hpc")
_BEHIND_NAT = (*_WITH_ENGINE, "custom")  # unless they are told otherwise
_NETWORK_OPTIONS = ("--network", "--net")
# How podman with pasta names the machine which it runs on.
_PODMAN_HOST = "169.254.1.2"
_PROBE_TIMEOUT = 20  # seconds, for a container to find the way to the endpoint on its own machine
_COMMAND_TIMEOUT = 10.0
_IDS = "containers"

# Its name holds what the next life must know to end a container which this one has left.
_SCRIPT = """\
#!/bin/bash
# The workers of a block, in a container which ends with this script.
set -f +B
id={ids}/{runtime}@$(uname -n)@$$.id
end() {{
  if [ -s "$id" ]; then
    {runtime} kill "$(cat "$id")" || {runtime} rm --force "$(cat "$id")"
  fi >/dev/null 2>&1
}}
cancelled() {{
  trap '' TERM INT HUP
  end
  kill "$client" 2>/dev/null
  wait "$client"
  end
  rm -f "$id"
  exit 143
}}
trap cancelled TERM INT HUP
mkdir -p {directories}
{runtime} run --rm --cidfile "$id" {label} {options} {mounts} {image} {command} &
client=$!
wait "$client"
status=$?
end
rm -f "$id"
exit "$status"
"""
_SCRIPT_WITHOUT_ENGINE = """\
#!/bin/bash
# The workers of a block, in a container.
set -f +B
mkdir -p {directories}
exec {runtime} run {options} {mounts} {image} {command}
"""


def check_containers(config: BlocksEngineConfig, *, local: bool) -> None:
    """Look whether containers can be run where blocks are on this machine.

    Raises:
        WrongOption: a rootless runtime needs setuid programs, which this process must not have.
    """
    kind = config.container_type if isinstance(config, ContainerOptions) else None
    if local and kind in _ROOTLESS and os.geteuid() != 0 and libc.has_no_new_privs():
        raise WrongOption(
            ("engine", "container_type"),
            f"{kind} cannot run here: without root it needs newuidmap, a setuid program, and"
            " no_new_privs is set for this user endpoint, which makes those powerless. Whoever"
            " runs the endpoint can set `no_new_privs: false` in the manager's configuration (for"
            " a unit of systemd's: NoNewPrivileges=no), or choose a batch scheduler's provider,"
            " whose jobs do not have it",
        )


def containers_of(
    config: BlocksEngineConfig, context: EngineContext, working_dir: Path, *, local: bool
) -> Containers | None:
    """Return what gives the blocks of an executor their containers, if they are to have any."""
    if not isinstance(config, ContainerOptions) or config.container_type is None:
        return None
    has_address = "address" in (config.model_extra or {})
    return Containers(config, context, working_dir, probes=local and not has_address)


class Containers:
    """How the blocks of an executor get their containers.

    Where it ``probes``, the workers look for the way to the endpoint, on their own machine.
    """

    def __init__(
        self, options: ContainerOptions, context: EngineContext, working_dir: Path, *, probes: bool
    ) -> None:
        self._options = options
        self._context = context
        self._directories = (context.marks, working_dir)
        self._probes = probes
        self._run = Path()
        self._mounted: tuple[Path, ...] = ()

    def enter(self, executor: Any, run: Path) -> None:
        """Have an executor, before its start, launch its blocks in containers.

        Raises:
            OSError: the files for it cannot be written below ``run``.
        """
        self._run = run
        logs = Path(executor.logdir)
        self._mounted = (logs, *self._directories)
        for each in (logs, run / _IDS):
            each.mkdir(mode=0o700, exist_ok=True)
        program = logs / "pool.py"
        program.write_text(pool_program())
        # It is the image's python3, and its PATH. A launch_cmd of the site's own stays as it is.
        ours = f"python3 {shlex.quote(str(program))}"
        executor.launch_cmd = executor.launch_cmd.replace(pool_command(), ours)
        if self._probes and executor.encrypted and self._has_own_network():
            self._open_to_containers(executor)
        inner = executor._get_launch_command
        # In a file of its own: Parsl formats a command twice, and launchers put it into documents
        # in which a shell replaces things once more.
        executor._get_launch_command = lambda block: self._launch(block, inner(block))

    def remove(self) -> None:
        """End the containers which are left of this life's blocks on this machine."""
        remove_containers(self._run)

    def _launch(self, block: str, command: str) -> str:
        script = self._run / _IDS / f"block-{block}.sh"
        script.write_text(self.script(block, command))
        return f"bash {shlex.quote(str(script))}"

    def script(self, block: str, command: str) -> str:
        """Return the shell script which runs ``command`` in a container, for a block."""
        kind = self._options.container_type
        given = self._options.container_cmd_options or ""
        if kind == "custom":
            own = given.replace(RUN_DIRECTORY, str(self._context.directory))
            return f"#!/bin/bash\n{own.replace(LAUNCH_COMMAND, command)}\n"
        has_engine = kind in _WITH_ENGINE
        places = [shlex.quote(f"{each}:{each}") for each in self._mounted]
        flag = "-v" if has_engine else "--bind"
        label = f"--label globus-compute-block=globus-compute-{self._context.endpoint_id}.{block}"
        return (_SCRIPT if has_engine else _SCRIPT_WITHOUT_ENGINE).format(
            runtime=kind,
            ids=shlex.quote(str(self._run / _IDS)),
            label=label,
            options=given,
            directories=shlex.join(map(str, self._mounted)),
            mounts=" ".join(f"{flag} {each}" for each in places),
            image=shlex.quote(self._options.container_uri or ""),
            command=command,
        )

    def _has_own_network(self) -> bool:
        if self._options.container_type not in _BEHIND_NAT:
            return False
        words = (self._options.container_cmd_options or "").split()
        joined = {f"{each}=host" for each in _NETWORK_OPTIONS}
        separate = {(each, "host") for each in _NETWORK_OPTIONS}
        return joined.isdisjoint(words) and separate.isdisjoint(pairwise(words))

    def _open_to_containers(self, executor: Any) -> None:
        """Have the interchange listen on all addresses, and workers try each."""
        executor.address = None
        executor.all_addresses = _own_addresses()
        if self._options.container_type in _ROOTLESS:
            executor.all_addresses.add(_PODMAN_HOST)
        if executor.address_probe_timeout is None:
            executor.address_probe_timeout = _PROBE_TIMEOUT


def remove_containers(directory: Path) -> None:
    """End the containers of blocks on this machine, of which notes are left below ``directory``."""
    for note in directory.rglob(f"{_IDS}/*@{socket.gethostname()}@*.id"):
        runtime = note.name.partition("@")[0]
        program = shutil.which(runtime)
        try:
            container = note.read_text().strip()
        except FileNotFoundError:  # its block has just ended it
            continue
        if program is None:
            log.warning("Container %s may be left: there is no %s on the PATH", container, runtime)
        elif not container or _ends(program, container):
            note.unlink(missing_ok=True)


def _ends(program: str, container: str) -> bool:
    # A container which is no more is none that is left: only an engine's silence is told.
    for command in (["kill"], ["rm", "--force"]):
        words = [program, *command, container]
        try:
            done = subprocess.run(
                words, capture_output=True, timeout=_COMMAND_TIMEOUT, check=False, text=True
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("Container %s may be left: %s", container, error)
            return False
        if done.returncode == 0:
            log.info("Container %s of a block which is gone has been ended", container)
            return True
    return True


def _own_addresses() -> set[str]:
    return {
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET
    }
