# SPDX-License-Identifier: Apache-2.0
"""A site whose login node is a virtual machine, with alice's home on an NFS server.

The server is the machine's own: what it exports is synchronous and with root_squash, the mount a
hard one. bob's home is local.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from system.machine import Machine, machine_packages
from system.researcher import Researcher
from system.site import Site, sdk_environment, three_machines

ENDPOINT = "hpc"
# What the NFS server has: the same as /home/alice, seen by root.
EXPORTED = "/srv/home/alice"
WATCHDOG = 90  # seconds

_FSTAB = f"127.0.0.1:{EXPORTED} /home/alice nfs4 hard,x-systemd.after=nfs-server.service 0 0\n"
_EXPORTS = "/srv/home 127.0.0.1(rw,sync,root_squash,no_subtree_check)\n"
# A restarted server waits that long for its clients, instead of a minute and a half.
_NFS = "[nfsd]\ngrace-time=10\nlease-time=10\n"
_MOVE_HOME = (
    f"mkdir -p /srv/home; mv /home/alice {EXPORTED}; chmod 700 {EXPORTED}; mkdir /home/alice"
)
_UNITS = [f"globus-compute-endpoint{part}@" for part in ("", "-gateway", "-spawner")]
# A unit which starts in seconds elsewhere takes a minute here.
_PATIENCE = f"[Service]\nTimeoutStartSec=600\nWatchdogSec={WATCHDOG}\n"


@dataclass
class LoginMachine:
    """A site with its machine, and the people at it."""

    machine: Machine
    site: Site
    alice: Researcher
    bob: Researcher

    def property(self, unit: str, name: str) -> str:
        """A property of one of the machine's units."""
        return self.machine.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def units(self) -> dict[str, str]:
        """The main processes of the endpoint's units."""
        return {unit: self.property(f"{unit}{ENDPOINT}", "MainPID") for unit in _UNITS}


@contextlib.contextmanager
def login_machine(name: str) -> Iterator[LoginMachine]:
    sdk = sdk_environment()
    with three_machines(name, sdk, login_packages=machine_packages()) as hosts:
        site = Site(hosts)
        site.install()
        carrier = hosts.login_node
        for user in ("alice", "bob"):
            carrier.add_user(user)
        carrier.run("sh", "-ec", _MOVE_HOME)
        carrier.write("/etc/fstab", _FSTAB)
        carrier.write("/etc/exports", _EXPORTS)
        carrier.write("/etc/nfs.conf.d/test.conf", _NFS)
        for unit in _UNITS:
            carrier.write(f"/etc/systemd/system/{unit}.service.d/patience.conf", _PATIENCE)
        with Machine(carrier) as machine:
            site.login_node = machine
            site.start_services()
            site.configure_endpoint(ENDPOINT, site.create_client("gateway"))
            endpoint = site.start_endpoint(ENDPOINT)
            people = [
                Researcher(
                    hosts.laptop, name, site.create_client(name), sdk, endpoint, patience=15 * 60
                )
                for name in ("alice", "bob")
            ]
            yield LoginMachine(machine, site, *people)


def lines(machine: Machine, path: str | Path) -> list[str]:
    """A file's lines; none where it is not there yet."""
    return machine.run("cat", path, check=False).stdout.splitlines()
