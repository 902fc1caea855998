# SPDX-License-Identifier: Apache-2.0
"""A manager's ``config.yaml``, and the files around it, as one snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import Field

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.kind import TEMPLATE_NAMES
from globus_compute_endpoint.config.loading import load_file, validate
from globus_compute_endpoint.config.resource_control import ResourceControl
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["ManagerConfig", "ManagerSettings", "load_manager_settings"]

_SCHEMA = "user_config_schema.json"
_ENVIRONMENT = "user_environment.yaml"


class ManagerConfig(CommonConfig):
    """Options of a manager endpoint. Without ``multi_user``, its template makes it one."""

    multi_user: Literal[True] | None = None
    identity_mapping_config_path: Path | None = None
    user_config_template_path: Path | None = None
    user_config_schema_path: Path | None = None
    resource_control: ResourceControl = Field(default_factory=ResourceControl)
    mu_child_ep_grace_period_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    allowed_users: frozenset[str] | None = None
    allowed_groups: frozenset[str] | None = None
    minimum_uid: Annotated[int, Field(ge=1)] = 1000
    max_user_endpoints: Annotated[int, Field(ge=1, le=10000)] = 512
    max_user_endpoints_per_user: Annotated[int, Field(ge=1, le=1000)] = 32
    no_new_privs: bool = False


@dataclass(frozen=True)
class ManagerSettings:
    """All that the administrator wrote for one manager, checked."""

    config: ManagerConfig
    template: str
    schema: dict[str, Any] | None
    environment: dict[str, str]


def load_manager_settings(directory: Path, *, environment: bool = True) -> ManagerSettings:
    """Read and check a manager's directory; raises Problem naming the file and what is wrong.

    Without ``environment``, the user endpoints' environment is left out: it may hold what only
    root is to read.
    """
    path = directory / "config.yaml"
    config = validate(ManagerConfig, load_file(path), str(path))
    return ManagerSettings(
        config=config,
        template=_read(_template_path(directory, config)),
        schema=_schema(directory, config),
        environment=_environment(directory / _ENVIRONMENT) if environment else {},
    )


def _template_path(directory: Path, config: ManagerConfig) -> Path:
    if config.user_config_template_path:
        return config.user_config_template_path
    candidates = [directory / name for name in TEMPLATE_NAMES]
    return next((path for path in candidates if path.exists()), candidates[0])


def _schema(directory: Path, config: ManagerConfig) -> dict[str, Any] | None:
    path = config.user_config_schema_path or directory / _SCHEMA
    if not path.exists() and not config.user_config_schema_path:
        return None
    try:
        schema = json.loads(_read(path))
        Draft202012Validator.check_schema(schema)
    except (ValueError, SchemaError) as error:
        reason = error.message if isinstance(error, SchemaError) else str(error)
        raise _invalid(path, reason, "it must be a JSON Schema, draft 2020-12") from error
    if not isinstance(schema, dict):
        raise _invalid(path, "it is not an object", "write a JSON Schema of type object")
    return schema


def _environment(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    document = load_file(path)
    for key, value in document.items():
        if isinstance(value, dict | list):
            raise _invalid(path, f"{key} is not a plain value", "write lines like `NAME: value`")
    return {key: "" if value is None else str(value) for key, value in document.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(path, str(reason), "check the path and the file's permissions") from error


def _invalid(path: Path, reason: str, hint: str) -> Problem:
    return Problem("CONFIG_INVALID", f"{path}: {reason}", hint, ExitStatus.CONFIGURATION)
