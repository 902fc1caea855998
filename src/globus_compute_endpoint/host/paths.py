# SPDX-License-Identifier: Apache-2.0
"""Where a packaged system endpoint keeps what; see file-hierarchy(7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = [
    "JOURNAL_FILE",
    "USERS_STATE",
    "WORK_MARKER",
    "EndpointPaths",
    "endpoint_paths",
    "holds_work",
    "state_directories",
    "state_directory",
    "system_endpoints",
]

#: The task journal, in a user endpoint's directory on local disk: its user's, never root's to open.
JOURNAL_FILE = "journal.db"
#: Beside it: there may be tasks in the journal which nobody else has.
WORK_MARKER = "unfinished"

_CONFIGURATION = Path("/etc/globus-compute-endpoint")
_STATE = Path("/var/lib/globus-compute-endpoint")
_RUNTIME = Path("/run/globus-compute-endpoint")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

#: The state directories of all user endpoints of the system's managers.
USERS_STATE = _STATE / "users"


@dataclass(frozen=True)
class EndpointPaths:
    """The files of one system endpoint."""

    name: str

    @property
    def configuration(self) -> Path:
        """The administrator's directory."""
        return _CONFIGURATION / self.name

    @property
    def config_yaml(self) -> Path:
        """The manager's configuration."""
        return self.configuration / "config.yaml"

    @property
    def starts(self) -> Path:
        """Start records: the manager's."""
        return _STATE / self.name / "starts"

    @property
    def registration(self) -> Path:
        """``endpoint.json``, which holds the endpoint's id: the gateway's."""
        return _STATE / self.name / "gateway" / "endpoint.json"

    @property
    def login(self) -> Path:
        """The login of the person as whom the endpoint is registered: the gateway's."""
        return _STATE / self.name / "gateway" / "storage.db"

    @property
    def gateway_environment(self) -> Path:
        """``gateway.env``, which may name a client identity: root's."""
        return self.configuration / "gateway.env"

    @property
    def manager_socket(self) -> Path:
        """Where the gateway reaches the manager."""
        return _RUNTIME / self.name / "manager" / "socket"

    @property
    def reload_socket(self) -> Path:
        """Where root asks the manager to take its configuration anew."""
        return _RUNTIME / self.name / "manager" / "reload"

    @property
    def status_socket(self) -> Path:
        """Where root asks the manager how its user endpoints fare."""
        return _RUNTIME / self.name / "manager" / "status"

    @property
    def spawner_socket(self) -> Path:
        """Where the manager reaches the spawner."""
        return _RUNTIME / self.name / "spawner" / "socket"

    @property
    def obituary(self) -> Path:
        """How user endpoints ended: the spawner's."""
        return _RUNTIME / self.name / "spawner" / "ended.json"

    @property
    def manager_unit(self) -> str:
        """The unit which ``systemctl`` users know."""
        return f"globus-compute-endpoint@{self.name}.service"

    @property
    def gateway_unit(self) -> str:
        """The unit of the network's side."""
        return f"globus-compute-endpoint-gateway@{self.name}.service"


def endpoint_paths(name: str) -> EndpointPaths:
    """The paths of the endpoint called ``name``; raises Problem where it is no possible name."""
    if not _NAME.fullmatch(name) or name == USERS_STATE.name:
        raise Problem(
            "BAD_ENDPOINT_NAME",
            f"'{name}' cannot be the name of an endpoint",
            "use up to 128 letters, digits, '-', '_' and '.'; begin with a letter or digit",
            ExitStatus.CONFIGURATION,
        )
    return EndpointPaths(name)


def system_endpoints() -> list[EndpointPaths]:
    """The system endpoints which are configured."""
    names = sorted(each.parent.name for each in _CONFIGURATION.glob("*/config.yaml"))
    return [EndpointPaths(name) for name in names if _NAME.fullmatch(name)]


def state_directory(uid: int, endpoint_id: UUID) -> Path:
    """A user endpoint's own directory on local disk."""
    return USERS_STATE / str(uid) / str(endpoint_id)


def state_directories() -> list[tuple[int, Path]]:
    """The user endpoints' directories which are there, with their users: for root."""
    return [
        (int(user.name), path)
        for user in sorted(USERS_STATE.glob("*"))
        if user.name.isdecimal() and int(user.name)
        for path in sorted(user.iterdir())
    ]


def holds_work(directory: Path) -> bool:
    """Whether a user endpoint's directory may hold tasks that nobody else has.

    Raises OSError where that cannot be told.
    """
    try:
        (directory / WORK_MARKER).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
