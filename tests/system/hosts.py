# SPDX-License-Identifier: Apache-2.0
"""Test hosts from Python: boot one, run things in it, read its journal, leave nothing behind.

    with Host("alpha") as host:
        host.run("systemctl", "start", "rabbitmq-server")

`tests/system/testhost` does the work; its head says what a host is. Times are in seconds. A command
which fails raises subprocess.CalledProcessError with what it printed, one which takes too long
subprocess.TimeoutExpired.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TREE = Path(__file__).resolve().parents[2]
TESTHOST = Path(__file__).resolve().parent / "testhost"
HOSTS = Path("/var/lib/testhost/hosts")

# Long enough for RabbitMQ on a busy machine.
PATIENCE = 120.0


class CommandFailed(subprocess.CalledProcessError):
    """A command in a host failed; unlike its base, it says what the command printed."""

    def __str__(self) -> str:
        said = "\n".join(text.strip() for text in (self.stdout, self.stderr) if text)
        return f"{shlex.join(self.cmd)}: exit status {self.returncode}\n{said}"


def run_prefix() -> str:
    """What the names of this run's hosts begin with; tells which process answers for them."""
    return os.environ.get("TEST_HOST_PREFIX") or f"t{os.getpid()}-"


def remove_hosts(prefix: str | None = None) -> None:
    """Take down the hosts of this run, or those whose names begin with `prefix`."""
    for directory in HOSTS.glob(f"{prefix or run_prefix()}*"):
        control("down", directory.name)


def remove_orphans() -> None:
    """Take down the hosts of runs whose process was killed before it could."""
    for directory in HOSTS.glob("t[0-9]*-*"):
        owner = directory.name[1:].partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            control("down", directory.name)


def control(*arguments: str | Path, timeout: float = PATIENCE) -> str:
    return checked([str(TESTHOST), *map(str, arguments)], timeout=timeout).stdout


def checked(
    command: Sequence[str], *, timeout: float, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        raise CommandFailed(done.returncode, command, done.stdout, done.stderr)
    return done


def prepared_environment(lock: str) -> Path:
    """A virtual environment as requirements/LOCK.lock has it, made if it is missing."""
    made = checked([str(TREE / "tools/prepare"), "venv", lock], timeout=300)
    return Path(made.stdout.strip())


def worker_environments() -> Path:
    """The directory of what tools/worker-environments makes, made if it is missing."""
    return Path(checked([str(TREE / "tools/prepare"), "workers"], timeout=300).stdout.strip())


@dataclass(frozen=True)
class Link:
    """A host's addresses in a network, routed, and what a name server would tell it there."""

    network: str
    addresses: Sequence[str]
    names: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> list[str]:
        names = [f"{name}={address}" for name, address in self.names.items()]
        link = f"{run_prefix()}{self.network}:{','.join(self.addresses)}"
        return ["--link", link, *(option for name in names for option in ("--name", name))]


def filter_network(network: str, rules: str) -> None:
    """Have a network's router filter what it forwards; `rules` are nftables'."""
    line = [str(TESTHOST), "filter", f"{run_prefix()}{network}"]
    checked(line, timeout=PATIENCE, stdin=rules)


class Host:
    """A throw-away Debian host with systemd as its pid 1; up while the context lasts.

    `binds` are files and directories of the machine which it sees, read-only, at the same place.
    Without a `link` its loopback is all the network that it has.
    With `keep` it stays up under its plain name, until the next of that name replaces it.
    `packages` are Debian packages that its base has beside the usual ones: see `tools/prepare`.
    """

    def __init__(
        self,
        name: str,
        *,
        binds: Sequence[Path] = (),
        cgroups: str = "all",
        link: Link | None = None,
        keep: bool = False,
        packages: Sequence[str] = (),
    ) -> None:
        self.name = name if keep else f"{run_prefix()}{name}"
        self.binds = list(dict.fromkeys(binds))
        self.cgroups = cgroups
        self.link = link
        self.keep = keep
        self.packages = packages

    def __enter__(self) -> Self:
        try:
            self.down()
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.keep:
            self.down()

    def up(self) -> None:
        options = [option for bind in self.binds for option in ("--bind", str(bind))]
        link = self.link.options() if self.link else []
        base = ["env", f"TESTHOST_PACKAGES={' '.join(self.packages)}"] if self.packages else []
        up = ("up", "--cgroups", self.cgroups, *link, *options, self.name)
        checked([*base, str(TESTHOST), *up], timeout=PATIENCE)
        # Ordinary users of the host are to reach what is bound below directories of root's.
        closed = {str(parent) for bind in self.binds for parent in bind.parents} - {"/"}
        self.run("chmod", "-f", "o+x", *sorted(closed), check=False)

    def down(self, *, keep_disk: bool = False, crash: bool = False) -> None:
        """Shut the host down; with `keep_disk`, the next `up` boots from the same disk.

        With `crash` it is not shut down in order, but ends as if its power was cut.
        """
        kept = "--crash" if crash else "--keep"
        control("down", *([kept] if keep_disk or crash else []), self.name)

    @property
    def root(self) -> Path:
        """The host's file tree, as the machine sees it."""
        return Path(control("root", self.name).strip())

    def command(
        self,
        *command: str | Path,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        network: bool = False,
    ) -> list[str]:
        """The command line which, on the machine, runs `command` in the host.

        A user other than root must have a group of the same name, and a home below /home.
        """
        lent = ["--net", "host"] if network else []
        line = self.inside(*command, user=user, environment=environment, directory=directory)
        return [str(TESTHOST), "run", *lent, self.name, "--", *line]

    @staticmethod
    def inside(
        *command: str | Path,
        user: str,
        environment: Mapping[str, str] | None,
        directory: Path | None,
    ) -> list[str]:
        """The command line which root, in the host, runs `command` with."""
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {"HOME": home, "USER": user, "LOGNAME": user, **(environment or {})}
        drop = ["setpriv", "--pdeathsig", "KILL"]
        if user != "root":
            drop += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        where = ["--chdir", str(directory)] if directory else []
        return [
            *drop,
            *("env", *where, *(f"{name}={value}" for name, value in variables.items())),
            *map(str, command),
        ]

    def run(
        self,
        *command: str | Path,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        network: bool = False,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = PATIENCE,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `network` lends it the machine's network."""
        line = self.command(
            *command, user=user, environment=environment, directory=directory, network=network
        )
        done = checked(line, timeout=timeout, stdin=stdin, check=False)
        if check and done.returncode:
            inner = list(map(str, command))
            raise CommandFailed(done.returncode, inner, done.stdout, done.stderr)
        return done

    @contextlib.contextmanager
    def background(
        self,
        *command: str | Path,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """A process with pipes for its standard input and output; ended with the context."""
        line = self.command(*command, user=user, environment=environment, directory=directory)
        with subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of root's, whose directory is made if it is missing."""
        where = shlex.quote(path)
        script = f"mkdir -p $(dirname {where}) && install -m {mode:o} /dev/stdin {where}"
        self.run("sh", "-c", script, stdin=text)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def push(self, source: Path, directory: str) -> None:
        """Copy a file or directory of the machine into a directory of the host."""
        control("push", self.name, source, directory)

    def pull(self, source: Path, directory: Path) -> None:
        """Copy a file or directory of the host into a directory of the machine."""
        control("pull", self.name, source, directory)

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's entries with these matches (`GC_TASK_ID=…`, `-u NAME`), oldest first."""
        done = self.run("journalctl", "--output=json", "--no-pager", *matches, check=False)
        if done.returncode and done.stderr:  # 1 in silence: nothing was found
            raise CommandFailed(done.returncode, ["journalctl", *matches], done.stdout, done.stderr)
        lines = done.stdout
        return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]

    def add_user(self, name: str) -> int:
        """Make an ordinary user with a home directory; returns the uid."""
        self.run("useradd", "--create-home", "--shell", "/bin/bash", name)
        return int(self.run("id", "-u", name).stdout)

    def start_services(self, *units: str) -> None:
        """Start services of the base; RabbitMQ with its management interface."""
        if not units:
            return
        if "rabbitmq-server" in units:
            self.write("/etc/rabbitmq/enabled_plugins", "[rabbitmq_management].\n")
        self.run("systemctl", "start", *units)
