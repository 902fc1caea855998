# SPDX-License-Identifier: Apache-2.0
"""Checking what a user endpoint is configured with, down to what Parsl takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from globus_compute_endpoint.config.loading import WrongOption, validate
from globus_compute_endpoint.config.user_endpoint import DEPRECATED_ENGINE, UserEndpointConfig
from globus_compute_endpoint.engines.factory import build

__all__ = ["checked"]

log = logging.getLogger(__name__)


def checked(document: Mapping[str, Any], source: str) -> UserEndpointConfig:
    """Return the configuration in ``document``; ``source`` is what messages call it.

    Raises:
        Problem: which options are wrong, each with its path and line (CONFIGURATION).
    """
    config = validate(UserEndpointConfig, document, source)
    engine = document.get("engine")
    if isinstance(engine, Mapping) and engine.get("type") == DEPRECATED_ENGINE:
        log.warning(
            "%s: engine.type: %s is deprecated; GlobusComputeEngine, which it is taken for, is"
            " its successor: write that",
            source,
            DEPRECATED_ENGINE,
        )
    try:
        build(config.engine)
    except WrongOption as wrong:
        raise wrong.located(document, source) from wrong.__cause__
    return config
