# SPDX-License-Identifier: Apache-2.0
"""What the configuration of a user endpoint is made from, and how."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from globus_compute_endpoint.config.common import Port
from globus_compute_endpoint.config.loading import load_yaml
from globus_compute_endpoint.config.template import render_user_config
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint.configuration import checked

__all__ = ["Blueprint", "check", "render"]

_SOURCE = "the configuration made from the endpoint's template"
_NOT_YAML = (
    "the template must make YAML; values of researchers come with their double quotes, and need"
    " none around {{ … }}"
)


class Blueprint(BaseModel):
    """The administrator's template and the researcher's wishes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    template: str
    template_schema: dict[str, Any] | bool | None = Field(None, alias="schema")
    included: dict[str, str] = {}
    user_opts: dict[str, Any] = {}
    user_runtime: dict[str, Any] = {}
    mapped_identity: dict[str, Any] = {}
    parent_config: dict[str, Any] = {}
    amqp_port: Port | None = None
    allowed_functions: tuple[UUID, ...] | None = None


def render(blueprint: Blueprint) -> str:
    """Return the YAML text that the template makes of it.

    Raises:
        Problem: worded for the researcher (CONFIGURATION).
    """
    return render_user_config(
        blueprint.template,
        blueprint.template_schema,
        blueprint.user_opts,
        blueprint.user_runtime,
        blueprint.mapped_identity,
        parent_config=blueprint.parent_config,
        included=blueprint.included,
    )


def check(blueprint: Blueprint, rendered: str) -> UserEndpointConfig:
    """Return what a user endpoint makes of the rendered text.

    Raises:
        Problem: it is no valid configuration (CONFIGURATION).
    """
    try:
        document = load_yaml(rendered, _SOURCE)
    except Problem as problem:
        raise Problem(problem.code, problem.message, _NOT_YAML, problem.exit_status) from problem
    config = checked(document, _SOURCE)
    if config.amqp_port is None and blueprint.amqp_port is not None:
        config = config.model_copy(update={"amqp_port": blueprint.amqp_port})
    if blueprint.allowed_functions is not None:  # the administrator's word, not the template's
        config = config.model_copy(update={"allowed_functions": blueprint.allowed_functions})
    return config
