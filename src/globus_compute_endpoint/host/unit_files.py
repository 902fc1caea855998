# SPDX-License-Identifier: Apache-2.0
"""The unit by which systemd starts a single user's endpoint at boot; see systemd.service(5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNIT_DIRECTORY", "BootUnit", "environment_file"]

UNIT_DIRECTORY = Path("/etc/systemd/system")

# systemd would read an EnvironmentFile= as root, wherever its owner has it link to.
_WITH_ENVIRONMENT = '[ ! -r "$0" ] || { set -a; . "$0"; set +a; }; exec "$@"'
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NEEDS_BACKSLASH = re.compile(r'["\\$`]')


@dataclass(frozen=True)
class BootUnit:
    """What goes into the unit. ``start`` and ``stop`` are command lines.

    ``environment`` is the file that the endpoint's user reads their environment from.
    """

    name: str
    user: str
    start: Sequence[str]
    stop: Sequence[str]
    pid_file: Path
    environment: Path
    final_statuses: Sequence[int]

    @property
    def unit(self) -> str:
        """The unit's name."""
        return f"globus-compute-endpoint-{self.name}.service"

    @property
    def path(self) -> Path:
        """Where systemd looks for it."""
        return UNIT_DIRECTORY / self.unit

    def text(self) -> str:
        """Return the unit file."""
        statuses = " ".join(map(str, self.final_statuses))
        prefix = ["/bin/sh", "-c", _WITH_ENVIRONMENT, str(self.environment)]
        return f"""\
[Unit]
Description=Globus Compute endpoint {self.name} of {self.user}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=forking
User={_value(self.user)}
PIDFile={_value(str(self.pid_file))}
ExecStart={_command([*prefix, *self.start])}
ExecStop={_command([*prefix, *self.stop])}
# An endpoint_setup may build an environment; the command bounds all else itself.
TimeoutStartSec=infinity
TimeoutStopSec=120
Restart=on-failure
RestartSec=5
# What no retry mends: see globus-compute-endpoint(1), EXIT STATUS.
RestartPreventExitStatus={statuses}

[Install]
WantedBy=multi-user.target
"""


def environment_file(variables: Mapping[str, str]) -> str:
    """Return assignments for a shell; values with line breaks are left out."""
    return "".join(
        f'{name}="{_NEEDS_BACKSLASH.sub(_backslash, value)}"\n'
        for name, value in sorted(variables.items())
        if value.isprintable() and _NAME.fullmatch(name)
    )


def _command(words: Sequence[str]) -> str:
    # A dollar sign begins a variable, also inside quotes.
    return " ".join(f'"{_escaped(_value(word)).replace("$", "$$")}"' for word in words)


def _value(text: str) -> str:
    return text.replace("%", "%%")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _backslash(match: re.Match[str]) -> str:
    return f"\\{match[0]}"
