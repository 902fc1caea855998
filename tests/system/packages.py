# SPDX-License-Identifier: Apache-2.0
"""The project's Debian packages and its wheel: built, and installed in a test host."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from system.hosts import TREE, Host, checked

ENDPOINT = "globus-compute-endpoint"
SERVICES = "globus-compute-services"


@cache
def build_packages() -> dict[str, Path]:
    """Each package's file by its name; built if this tree has changed since."""
    paths = checked([str(TREE / "tools/build-debs")], timeout=600).stdout.split()
    return {Path(path).name.partition("_")[0]: Path(path) for path in paths}


def install_packages(host: Host, *names: str) -> None:
    """Install packages as an administrator does: by apt, with what they depend on."""
    packages = build_packages()
    for name in names:
        host.push(packages[name], "/root/packages")
    files = [f"/root/packages/{packages[name].name}" for name in names]
    host.run(
        *("apt-get", "install", "-q", "-y", "--no-install-recommends", *files),
        environment={"DEBIAN_FRONTEND": "noninteractive"},
        network=True,
        timeout=300,
    )


@cache
def wheelhouse() -> Path:
    """A directory with all that the locks name; a host must be made with a bind of it."""
    return Path(checked([str(TREE / "tools/build-debs"), "wheelhouse"], timeout=300).stdout.strip())


@cache
def build_wheel() -> Path:
    return Path(checked([str(TREE / "tools/build-wheel")], timeout=120).stdout.strip())


def install_wheel(host: Host, user: str, extra: str = "") -> None:
    """Install the wheel as an ordinary user does: by pipx; from our wheelhouse, not a network."""
    wheel = build_wheel()
    host.push(wheel, "/opt/wheel")
    wanted = f"/opt/wheel/{wheel.name}" + (f"[{extra}]" if extra else "")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse())}
    host.run("pipx", "install", wanted, user=user, environment=offline, timeout=300)
