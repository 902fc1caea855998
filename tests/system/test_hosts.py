# SPDX-License-Identifier: Apache-2.0
"""The test hosts themselves: what they are, and that they leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from system.hosts import (
    HOSTS,
    TREE,
    CommandFailed,
    Host,
    Link,
    filter_network,
    remove_orphans,
    run_prefix,
)


def routers() -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"testhost-{run_prefix()}*")]


def leftovers(name: str) -> list[str]:
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/testhost-{name}")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    return [*cgroups, *mounts, *map(str, HOSTS.glob(name))]


def test_a_host_is_a_machine_of_its_own() -> None:
    with Host("own") as host:
        assert host.run("cat", "/proc/1/comm").stdout == "systemd\n"
        assert host.run("systemctl", "is-system-running").stdout == "running\n"
        assert host.run("ip", "-brief", "link").stdout.split()[0] == "lo"
        uid = host.add_user("alice")
        assert host.run("id", "-u", user="alice").stdout == f"{uid}\n"
        host.write("/etc/test/file", "text\n", mode=0o600)
        assert host.read("/etc/test/file") == "text\n"
        host.run("logger", "--tag", "probe", "a line for the journal")
        assert [entry["MESSAGE"] for entry in host.journal("-t", "probe")] == [
            "a line for the journal"
        ]


def test_linked_hosts_reach_each_other_as_the_router_lets_them() -> None:
    connect = "import socket, sys; socket.create_connection(('peer.example', int(sys.argv[1])), 2)"
    link = Link("pair", ["192.0.2.1"], {"peer.example": "192.0.2.2"})
    before = routers()
    with Host("one", link=link) as one, Host("two", link=Link("pair", ["192.0.2.2"])) as two:
        assert set(routers()) - set(before) == {f"testhost-{run_prefix()}pair"}
        command = ("python3", "-m", "http.server", "--bind", "192.0.2.2", "80")
        two.run("systemd-run", "--quiet", "--unit=web", *command)
        wait = f'until python3 -c "{connect}" 80 2>/dev/null; do :; done'
        one.run("timeout", "20", "sh", "-c", wait)
        said = one.run("python3", "-c", connect, "81", check=False).stderr
        assert "ConnectionRefused" in said
        drop = "table inet t { chain c { type filter hook forward priority 0; policy drop; }; }"
        filter_network("pair", drop)
        said = one.run("python3", "-c", connect, "80", check=False).stderr
        assert "TimeoutError" in said
        two.down()
        assert routers() != before
    assert routers() == before


def test_limits_are_enforced() -> None:
    hog = "x = bytearray(200 << 20)"
    with Host("limits") as host:
        scope = ("systemd-run", "--quiet", "--scope", "-p", "MemoryMax=50M")
        with pytest.raises(CommandFailed):
            host.run(*scope, "-p", "MemorySwapMax=0", "python3", "-c", hog)
        host.run(*scope[:-2], "python3", "-c", hog)


def test_a_command_which_takes_too_long_is_killed() -> None:
    with Host("slow") as host:
        with pytest.raises(subprocess.TimeoutExpired):
            host.run("sleep", "4321", timeout=1)
        assert host.run("pgrep", "-f", "sleep 4321", check=False).stdout == ""
        host.add_user("alice")
        with host.background("sleep", "1234", user="alice"):
            host.run("timeout", "10", "sh", "-c", "until pgrep -xf 'sleep 1234'; do :; done")
        host.run("timeout", "10", "sh", "-c", "while pgrep -xf 'sleep 1234'; do :; done")


def test_a_disk_outlives_a_reboot() -> None:
    with Host("disk") as host:
        host.run("touch", "/root/here")
        host.down(keep_disk=True)
        host.up()
        host.run("test", "-e", "/root/here")


def test_nothing_is_left_when_the_block_fails() -> None:
    with pytest.raises(RuntimeError), Host("fails") as host:
        assert leftovers(host.name)
        raise RuntimeError
    assert not leftovers(host.name)


def test_hosts_of_a_killed_run_are_removed_by_the_next() -> None:
    script = """
from system.hosts import Host
with Host("orphan") as host:
    print(host.name, flush=True)
    input()
"""
    environment = {
        name: value for name, value in os.environ.items() if name != "TEST_HOST_PREFIX"
    } | {"PYTHONPATH": str(TREE / "tests")}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    assert leftovers(name)
    remove_orphans()
    assert not leftovers(name)
