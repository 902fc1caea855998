# SPDX-License-Identifier: Apache-2.0
"""Which kind an endpoint is: one that runs tasks, or a manager of those that do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["TEMPLATE_NAMES", "is_manager"]

TEMPLATE_NAMES = ("user_config_template.yaml.j2", "user_config_template.yaml")


def is_manager(document: Mapping[str, Any], directory: Path) -> bool:
    """Whether the ``config.yaml`` in ``directory``, read as ``document``, is a manager's.

    ``multi_user`` decides where it is given. Where it is not, an endpoint without an ``engine`` of
    its own, but with a template for others', is a manager.
    """
    multi_user = document.get("multi_user")
    if multi_user is not None:
        return bool(multi_user)
    if "engine" in document:
        return False
    if document.get("user_config_template_path"):
        return True
    return any((directory / name).is_file() for name in TEMPLATE_NAMES)
