# SPDX-License-Identifier: Apache-2.0
"""What other programs say of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from globus_compute_endpoint import __version__
from globus_compute_endpoint.diagnostics.redaction import redact

__all__ = ["machine", "output_of", "versions"]

_TIMEOUT = 15.0
_SHOWN = 1 << 20  # characters
_SHOWN_VARIABLES = ("GLOBUS_", "GC_", "SSL_CERT_", "XDG_RUNTIME_DIR", "PATH", "HOME", "LANG")
_COMMANDS = {
    "uname.txt": ("uname", "-a"),
    "addresses.txt": ("ip", "address"),
    "routes.txt": ("ip", "route"),
    "os-release.txt": ("cat", "/etc/os-release"),
    "resolver.txt": ("cat", "/etc/resolv.conf"),
    "disks.txt": ("df", "-h"),
    "memory.txt": ("free", "-h"),
    "limits.txt": ("sh", "-c", "ulimit -a"),
    "clock.txt": ("date", "--utc", "--iso-8601=seconds"),
}


def output_of(*command: str) -> str:
    """Return what a command prints, without secrets, whatever becomes of it."""
    title = f"$ {' '.join(command)}\n"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{title}no end within {_TIMEOUT:g} s\n"
    except OSError as error:
        return f"{title}{error.strerror}\n"
    text = redact(done.stdout.decode(errors="replace")[-_SHOWN:])
    return f"{title}{text}" + (f"exit status {done.returncode}\n" if done.returncode else "")


def versions() -> str:
    """Return what is installed, one name and version a line."""
    packages = {(each.metadata["Name"], each.version) for each in distributions()}
    lines = [
        f"globus-compute-endpoint {__version__} in {Path(__file__).parents[1]}",
        f"Python {sys.version} in {sys.prefix}",
        f"{platform.platform()}, glibc {platform.libc_ver()[1]}",
        *(f"{name} {version}" for name, version in sorted(packages)),
    ]
    return "\n".join(lines) + "\n"


def machine() -> Iterator[tuple[str, str]]:
    """Yield names and texts about the machine and the caller's surroundings."""
    yield "versions.txt", versions()
    yield "systemd.txt", output_of("systemctl", "--version")
    for name, command in _COMMANDS.items():
        yield name, output_of(*command)
    ours = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(_SHOWN_VARIABLES) or name.lower().endswith("_proxy")
    )
    yield "environment.txt", redact("\n".join(ours) + "\n")
