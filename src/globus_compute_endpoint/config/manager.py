# SPDX-License-Identifier: Apache-2.0
"""A manager's ``config.yaml``, and the files around it, as one snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import Field

from globus_compute_endpoint.config.certificates import read_certificates
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.kind import TEMPLATE_NAMES
from globus_compute_endpoint.config.loading import load_file, validate
from globus_compute_endpoint.config.resource_control import ResourceControl
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["ManagerConfig", "ManagerSettings", "load_manager_settings", "load_templates"]

_SCHEMA = "user_config_schema.json"
_ENVIRONMENT = "user_environment.yaml"
_INCLUDED = "*.j2"
_INCLUDED_LIMIT = 1 << 20  # bytes, of all together: they go along with each user endpoint
_NOT_FOR_TEMPLATES = {"services", "allowed_users", "allowed_groups"}


class ManagerConfig(CommonConfig):
    """Options of a manager endpoint. Without ``multi_user``, its template makes it one."""

    multi_user: Literal[True] | None = None
    identity_mapping_config_path: Path | None = None
    user_config_template_path: Path | None = None
    user_config_schema_path: Path | None = None
    resource_control: ResourceControl = Field(default_factory=ResourceControl)
    mu_child_ep_grace_period_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    finish_up_s: Annotated[float, Field(ge=0, le=24 * 3600)] = 20.0  # for running tasks, at a stop
    allowed_users: frozenset[str] | None = None
    allowed_groups: frozenset[str] | None = None
    minimum_uid: Annotated[int, Field(ge=1)] = 1000
    max_user_endpoints: Annotated[int, Field(ge=1, le=10000)] = 512
    max_user_endpoints_per_user: Annotated[int, Field(ge=1, le=1000)] = 32
    no_new_privs: bool = False

    def for_templates(self) -> dict[str, Any]:
        """What a template sees as ``parent_config``: nothing of other users, and no addresses."""
        return self.model_dump(mode="json", exclude=_NOT_FOR_TEMPLATES)


@dataclass(frozen=True)
class ManagerSettings:
    """All that the administrator wrote for one manager, checked.

    ``included``: the templates, by name, which the template may include, import or extend.
    """

    config: ManagerConfig
    template: str
    schema: dict[str, Any] | None
    included: dict[str, str]
    environment: dict[str, str]
    ca_certificates: str | None = None


def load_manager_settings(directory: Path, *, environment: bool = True) -> ManagerSettings:
    """Read and check a manager's directory; raises Problem naming the file and what is wrong.

    Without ``environment``, the user endpoints' environment and the text of their certification
    authorities are left out: only root may be allowed to read them.
    """
    path = directory / "config.yaml"
    config = validate(ManagerConfig, load_file(path), str(path))
    settings = load_templates(
        config, _template_path(directory, config), _schema_path(directory, config)
    )
    if not environment:
        return settings
    ca_file = config.services.ca_file
    return replace(
        settings,
        environment=_environment(directory / _ENVIRONMENT),
        ca_certificates=read_certificates(ca_file) if ca_file else None,
    )


def load_templates(config: ManagerConfig, template: Path, schema: Path | None) -> ManagerSettings:
    """Read and check loose files, and the templates beside ``template``.

    Raises:
        Problem: one is not readable or not valid, or they are too large (CONFIGURATION).
    """
    return ManagerSettings(
        config=config,
        template=_read(template),
        schema=_schema(schema) if schema else None,
        included=_included(template.parent),
        environment={},
    )


def _template_path(directory: Path, config: ManagerConfig) -> Path:
    if config.user_config_template_path:
        return config.user_config_template_path
    candidates = [directory / name for name in TEMPLATE_NAMES]
    return next((path for path in candidates if path.exists()), candidates[0])


def _schema_path(directory: Path, config: ManagerConfig) -> Path | None:
    path = directory / _SCHEMA
    return config.user_config_schema_path or (path if path.exists() else None)


def _included(directory: Path) -> dict[str, str]:
    """A fixed set of files: what a template names cannot lead to any other."""
    files = {path.name: _read(path) for path in sorted(directory.glob(_INCLUDED)) if path.is_file()}
    if (size := sum(len(text) for text in files.values())) > _INCLUDED_LIMIT:
        raise _invalid(
            directory / _INCLUDED,
            f"these templates have {size} characters, more than {_INCLUDED_LIMIT}",
            "move what is not needed to another directory",
        )
    return files


def _schema(path: Path) -> dict[str, Any]:
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
        if not key or "=" in key or "\0" in f"{key}{value}":
            raise _invalid(path, f"{key!r} cannot be a variable", "write lines like `NAME: value`")
    return {key: "" if value is None else str(value) for key, value in document.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(path, str(reason), "check the path and the file's permissions") from error


def _invalid(path: Path, reason: str, hint: str) -> Problem:
    return Problem("CONFIG_INVALID", f"{path}: {reason}", hint, ExitStatus.CONFIGURATION)
