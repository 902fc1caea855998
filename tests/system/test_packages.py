# SPDX-License-Identifier: Apache-2.0
"""The Debian packages in a clean host: installed, removed, purged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from system.hosts import Host
from system.packages import ENDPOINT, SERVICES, build_packages, install_packages

NAMES = (ENDPOINT, SERVICES)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("packages") as host:
        install_packages(host, *NAMES)
        host.add_user("alice")
        yield host


def units(host: Host) -> list[str]:
    files = host.run("dpkg", "-L", *NAMES).stdout.splitlines()
    return [path for path in files if path.startswith("/lib/systemd/system/") and "." in path]


def is_python(host: Host, package: str, statement: str) -> bool:
    python = f"/usr/lib/{package}/bin/python"
    return host.run(python, "-I", "-c", statement, check=False).returncode == 0


def test_lintian_has_nothing_to_say() -> None:
    files = [str(path) for path in build_packages().values()]
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "none", *files],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("command", [ENDPOINT, "gce", SERVICES])
def test_commands_answer_ordinary_users(host: Host, command: str) -> None:
    assert "Usage:" in host.run(command, "--help", user="alice").stdout


def test_the_diagnostic_by_its_known_name_is_ours(host: Host) -> None:
    assert (
        "Usage: globus-compute-endpoint diagnostic"
        in host.run("globus-compute-diagnostic", "--help", user="alice").stdout
    )


@pytest.mark.parametrize("package", NAMES)
def test_each_package_holds_only_its_own(host: Host, package: str) -> None:
    for name in NAMES:
        module = name.replace("-", "_")
        assert is_python(host, package, f"import {module}.cli") == (name == package)


def test_parsl_finds_its_programs(host: Host) -> None:
    for program in ("interchange.py", "process_worker_pool.py"):
        first = host.run("head", "-1", f"/usr/lib/{ENDPOINT}/bin/{program}").stdout
        assert first.startswith(f"#!/usr/lib/{ENDPOINT}/bin/python")


@pytest.mark.parametrize("package", NAMES)
def test_pages_and_completion_are_there(host: Host, package: str) -> None:
    files = host.run("dpkg", "-L", package).stdout.splitlines()
    assert f"/usr/share/man/man1/{package}.1.gz" in files
    assert host.run("bash", "-n", f"/usr/share/bash-completion/completions/{package}").stderr == ""
    assert "Apache" in host.read(f"/usr/share/doc/{package}/bundled")
    assert any(name.endswith(".md") for name in files if name.startswith("/usr/share/doc/"))


def test_files_are_as_packaged_after_use(host: Host) -> None:
    assert host.run("dpkg", "--verify", *NAMES).stdout == ""
    assert (
        host.run("find", *(f"/usr/lib/{name}" for name in NAMES), "-newer", "/run/systemd").stdout
        == ""
    )


def test_nothing_is_enabled_or_running(host: Host) -> None:
    paths = units(host)
    assert paths
    for path in paths:
        name = path.rpartition("/")[2]
        state = host.run("systemctl", "is-enabled", name, check=False).stdout.strip()
        assert state in ("disabled", "static"), name
    running = host.run("systemctl", "list-units", "--no-legend", "globus-compute*").stdout
    assert running == ""


def test_systemd_accepts_the_units(host: Host) -> None:
    done = host.run("systemd-analyze", "verify", "--man=no", *units(host))
    assert done.stderr == ""


def test_accounts_and_directories_exist(host: Host) -> None:
    host.run("id", "globus-compute-gateway")
    host.run("id", "globus-compute-services")
    stat = ("stat", "--format", "%U %a")
    assert host.run(*stat, "/var/lib/globus-compute-services").stdout == (
        "globus-compute-services 700\n"
    )
    assert host.run(*stat, "/var/lib/globus-compute-endpoint/users").stdout == "root 711\n"


def test_removal_and_purge() -> None:
    with Host("purge") as host:
        install_packages(host, *NAMES)
        host.write(f"/etc/{ENDPOINT}/mine/config.yaml", "")
        host.write(f"/var/lib/{ENDPOINT}/mine/state", "")
        host.run("apt-get", "remove", "-q", "-y", *NAMES)
        host.run("test", "!", "-e", f"/usr/lib/{ENDPOINT}")
        host.run("test", "!", "-e", f"/usr/lib/{SERVICES}")
        host.run("test", "-e", f"/etc/{ENDPOINT}/mine/config.yaml")
        host.run("test", "-e", f"/var/lib/{ENDPOINT}/mine/state")
        host.run("apt-get", "purge", "-q", "-y", *NAMES)
        left = host.run("find", "/etc", "/usr", "/var/lib", "-path", "*globus-compute*").stdout
        assert left == ""
