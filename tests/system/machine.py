# SPDX-License-Identifier: Apache-2.0
"""A virtual machine in the place of a test host: a kernel, a clock and a disk of its own.

    carrier = Host("login", link=login_node_link("site"), packages=machine_packages())
    with carrier:
        install_packages(carrier, ENDPOINT)
        with Machine(carrier) as machine:
            machine.run("date", "--set", "+1 hour")

Its disk is a copy of its carrier's, in which QEMU runs: what an administrator is to have done
before the first boot is done to the carrier. QEMU emulates the processor, on every machine alike:
nested virtualization is not to be relied on. All in it is 10 to 20 times slower. It reaches what
its carrier reaches, from the carrier's address.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.waiting import until
from system.hosts import PATIENCE, CommandFailed, Host

BOOT = 400.0  # seconds, for all that has to do with the machine's coming and going
SLOWNESS = 5  # what a command takes longer than on a host

_PACKAGES = Path(__file__).with_suffix(".packages")
_DISK = "/var/lib/machine/disk.img"
_CONSOLE = "/run/machine.console"
_LINK = "/run/machine.link"
_KEY = "/root/.ssh/id_ed25519"
_PORT = 2222
_SSH = (
    *("-S", _LINK, "-i", _KEY, "-p", str(_PORT)),
    *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
)
_NETWORK = "[Match]\nName=en*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
_SSHD = "UsePAM no\nUseDNS no\nMaxSessions 40\n"
_PREPARE = f"""
mkdir -p {Path(_DISK).parent} {Path(_KEY).parent}
ssh-keygen -q -t ed25519 -N '' -f {_KEY}
cp {_KEY}.pub {Path(_KEY).parent}/authorized_keys
systemctl -q enable systemd-networkd
"""
# A copy of the root file system alone, without the copy itself.
_COPY = f"""
mount --bind / /mnt
mount -t tmpfs tmpfs /mnt{Path(_DISK).parent}
exec mke2fs -q -t ext4 -d /mnt {_DISK} 6G
"""
# What the guest has not yet written is in QEMU's memory: to kill it is to cut the power, for a disk
# which keeps what it was given.
_QEMU = f"""
exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 \
    -nodefaults -display none -serial file:{_CONSOLE} -rtc base=utc \
    -drive file={_DISK},if=virtio,format=raw,cache=writeback -device virtio-rng-pci \
    -netdev user,id=net,hostfwd=tcp:127.0.0.1:{_PORT}-:22 -device virtio-net-pci,netdev=net \
    -kernel /boot/vmlinuz-* -initrd /boot/initrd.img-* \
    -append "root=/dev/vda rw console=ttyS0 panic=-1" -no-reboot
"""


def machine_packages() -> list[str]:
    """What the carrier of a machine needs."""
    lines = _PACKAGES.read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


class Machine(Host):
    """The virtual machine that a host carries; up while the context lasts."""

    def __init__(self, carrier: Host) -> None:
        super().__init__(carrier.name, keep=True)
        self.carrier = carrier

    def up(self) -> None:
        """Make the disk where there is none; boot, and wait until all has started."""
        if self.carrier.run("test", "-e", _DISK, check=False).returncode:
            self._make_disk()
        self._start("machine", "sh", "-c", _QEMU)
        # Tries until the machine answers; the commands then share its connection.
        link = ("ssh", "-N", "-M", "-o", "ConnectTimeout=60", *_SSH, "root@127.0.0.1")
        self._start("machine-link", *link, properties=["Restart=always", "RestartSec=2"])
        self._await_answer()
        self.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT)

    def down(self, *, keep_disk: bool = False, crash: bool = False) -> None:
        """As a host's; a crash is a power cut."""
        if crash:
            self.carrier.run("systemctl", "kill", "--signal=KILL", "machine")
        elif keep_disk:
            self.run("systemctl", "poweroff", check=False)
            until(lambda: not self._is_on(), BOOT)
        for unit in ("machine-link", "machine"):
            self.carrier.run("systemctl", "stop", unit, check=False)
        if not (keep_disk or crash):
            self.carrier.run("rm", "-f", _DISK)

    @property
    def console(self) -> str:
        """What the machine's kernel and its systemd said since the last boot."""
        return self.carrier.read(_CONSOLE)

    @property
    def root(self) -> Path:
        raise NotImplementedError("a virtual machine's file tree cannot be seen from outside")

    def command(
        self,
        *command: str | Path,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        network: bool = False,
    ) -> list[str]:
        """As a host's; the network of the machine around it cannot be lent."""
        assert not network, "a virtual machine has its own network only"
        line = self.inside(*command, user=user, environment=environment, directory=directory)
        return self.carrier.command("ssh", *_SSH, "root@127.0.0.1", shlex.join(line))

    def run(
        self,
        *command: str | Path,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        network: bool = False,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = PATIENCE * SLOWNESS,
    ) -> subprocess.CompletedProcess[str]:
        """As a host's, with more patience."""
        return super().run(
            *command,
            user=user,
            environment=environment,
            directory=directory,
            network=network,
            stdin=stdin,
            check=check,
            timeout=timeout,
        )

    def push(self, source: Path, directory: str) -> None:
        """Copy a file or directory of the machine around into a directory of this one."""
        self.carrier.push(source, "/run/pushed")
        self.run("mkdir", "-p", directory)
        self._copy(f"/run/pushed/{source.name}", f"root@127.0.0.1:{directory}")

    def pull(self, source: Path, directory: Path) -> None:
        self.carrier.run("mkdir", "-p", "/run/pulled")
        self._copy(f"root@127.0.0.1:{source}", "/run/pulled")
        self.carrier.pull(Path("/run/pulled", source.name), directory)

    def _copy(self, source: str, target: str) -> None:
        options = [f"-o{name}" for name in (f"ControlPath={_LINK}", f"Port={_PORT}")]
        self.carrier.run("scp", "-q", "-p", "-r", *options, source, target)

    def _make_disk(self) -> None:
        self.carrier.write("/etc/systemd/network/10-machine.network", _NETWORK)
        self.carrier.write("/etc/ssh/sshd_config.d/machine.conf", _SSHD)
        self.carrier.run("sh", "-ec", _PREPARE)
        namespace = ("unshare", "--mount", "--propagation", "private")
        self.carrier.run(*namespace, "sh", "-ec", _COPY, timeout=BOOT)

    def _start(self, unit: str, *command: str, properties: Sequence[str] = ()) -> None:
        settings = [f"--property={each}" for each in ("StartLimitIntervalSec=0", *properties)]
        start = ("systemd-run", "--quiet", "--collect", f"--unit={unit}", *settings)
        self.carrier.run(*start, "--", *command)

    def _is_on(self) -> bool:
        return not self.carrier.run("systemctl", "is-active", "machine", check=False).returncode

    def _await_answer(self) -> None:
        try:
            until(self._answers, BOOT)
        except AssertionError as error:
            raise CommandFailed(1, ["boot"], self.console[-2000:], "no answer") from error

    def _answers(self) -> bool:
        if not self._is_on():
            said = self.carrier.run("journalctl", "--no-pager", "-u", "machine", "-n", "5").stdout
            raise CommandFailed(1, ["qemu-system-x86_64"], said, self.console[-2000:])
        check = ("ssh", *_SSH, "-O", "check", "root@127.0.0.1")
        return not self.carrier.run(*check, check=False).returncode
