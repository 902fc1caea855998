# SPDX-License-Identifier: Apache-2.0
"""The project's Debian packages: built, and installed in a test host."""

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
