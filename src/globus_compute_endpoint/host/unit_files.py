# SPDX-License-Identifier: Apache-2.0
"""The unit by which systemd starts a single user's endpoint at boot; see systemd.service(5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNIT_DIRECTORY", "BootUnit", "environment_file"]

UNIT_DIRECTORY = Path("/etc/systemd/system")

_NEEDS_BACKSLASH = re.compile(r'["\\$`]')


@dataclass(frozen=True)
class BootUnit:
    """What goes into the unit. ``start`` and ``stop`` are command lines."""

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
EnvironmentFile=-{_value(str(self.environment))}
ExecStart={_command(self.start)}
ExecStop={_command(self.stop)}
# An endpoint_setup may build an environment; the command bounds all else itself.
TimeoutStartSec=infinity
TimeoutStopSec=120
Restart=on-failure
RestartSec=30
# What no retry mends: see globus-compute-endpoint(1), EXIT STATUS.
RestartPreventExitStatus={statuses}

[Install]
WantedBy=multi-user.target
"""


def environment_file(variables: Mapping[str, str]) -> str:
    """Return the text of an ``EnvironmentFile=``; values with line breaks are left out."""
    return "".join(
        f'{name}="{_NEEDS_BACKSLASH.sub(_backslash, value)}"\n'
        for name, value in sorted(variables.items())
        if value.isprintable()
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
