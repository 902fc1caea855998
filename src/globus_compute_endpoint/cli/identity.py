# SPDX-License-Identifier: Apache-2.0
"""For which web services, and in which place, a login is made or looked up."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from globus_compute_endpoint.cli.profiles import user_directory
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.loading import load_file, validate
from globus_compute_endpoint.host.paths import EndpointPaths, endpoint_paths
from globus_compute_endpoint.host.privileges import LocalUser, become
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["LoginPlace", "login_place"]

_GATEWAY_USER = "globus-compute-gateway"


@dataclass(frozen=True)
class LoginPlace:
    """``storage`` is None for the SDK's own; ``unit`` is that of a system endpoint."""

    config: CommonConfig
    storage: Path | None = None
    unit: str | None = None


def login_place(name: str | None) -> LoginPlace:
    """The place for the endpoint ``name``; without one, that which the environment says.

    For a system endpoint this process becomes its gateway for good: only that account can read
    and write what is stored, and nothing that it can prepare in its directory is root's to follow.

    Raises:
        Problem: no such endpoint, or its configuration is wrong (CONFIGURATION).
    """
    if name is None:
        return LoginPlace(CommonConfig())
    paths = endpoint_paths(name)
    own = user_directory() / paths.name / "config.yaml"
    if own.is_file() or os.geteuid() != 0 or not paths.config_yaml.is_file():
        return LoginPlace(_config_in(own, name))
    config = _config_in(paths.config_yaml, name)
    _take_environment(paths)
    _become_gateway(paths)
    return LoginPlace(config, paths.login, paths.manager_unit)


def _config_in(path: Path, name: str) -> CommonConfig:
    """What endpoints of all kinds have in common; the rest may be wrong without harm here."""
    if not path.is_file():
        raise Problem(
            "NO_SUCH_ENDPOINT",
            f"there is no endpoint {name}: {path} does not exist",
            f"create it: globus-compute-endpoint configure {name}",
            ExitStatus.CONFIGURATION,
        )
    document = load_file(path)
    for option in document.keys() - CommonConfig.model_fields.keys():
        del document[option]
    return validate(CommonConfig, document, str(path))


def _take_environment(paths: EndpointPaths) -> None:
    """The SDK's variables as systemd gives them to the gateway, in place of this shell's."""
    for variable in [each for each in os.environ if each.startswith("GLOBUS_")]:
        del os.environ[variable]
    try:
        lines = paths.gateway_environment.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        variable, equals, value = line.strip().partition("=")
        if equals and variable.startswith("GLOBUS_"):
            os.environ[variable] = _unquoted(value.strip())


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _become_gateway(paths: EndpointPaths) -> None:
    try:
        account = pwd.getpwnam(_GATEWAY_USER)
    except KeyError:
        raise Problem(
            "NO_GATEWAY_ACCOUNT",
            f"there is no account {_GATEWAY_USER}",
            "install the package globus-compute-endpoint, or run systemd-sysusers",
            ExitStatus.CONFIGURATION,
        ) from None
    _make_state_directory(paths.login.parent)
    user = LocalUser(
        uname=account.pw_name,
        uid=account.pw_uid,
        gid=account.pw_gid,
        groups=(),
        group_names=(),
        gecos=account.pw_gecos,
        home=str(paths.login.parent),
        shell=account.pw_shell,
    )
    become(user, login=False)
    os.environ["HOME"] = user.home
    os.umask(0o077)


def _make_state_directory(directory: Path) -> None:
    """As systemd makes it at the unit's first start. All above it is root's."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o750)
    except FileExistsError:
        return
    shutil.chown(directory, _GATEWAY_USER, _GATEWAY_USER)
