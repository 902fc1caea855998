# SPDX-License-Identifier: Apache-2.0
"""What makes an endpoint a manager."""

from pathlib import Path
from typing import Any

import pytest

from globus_compute_endpoint.config.kind import is_manager
from globus_compute_endpoint.config.manager import load_manager_settings
from globus_compute_endpoint.problem import Problem

TEMPLATE = "user_config_template.yaml.j2"


@pytest.mark.parametrize(
    ("document", "template", "manager"),
    [
        ({"multi_user": True}, False, True),
        ({}, False, False),
        ({}, True, True),
        ({"display_name": "mine"}, True, True),
        ({"multi_user": None}, True, True),
        ({"multi_user": False}, True, False),
        ({"engine": {}}, True, False),
        ({"user_config_template_path": "/etc/x.j2"}, False, True),
    ],
)
def test_which_kind(document: dict[str, Any], template: bool, manager: bool, tmp_path: Path):
    if template:
        (tmp_path / TEMPLATE).write_text("engine: {type: ThreadPoolEngine}\n")
    assert is_manager(document, tmp_path) is manager


def test_a_template_is_enough_for_a_manager(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("display_name: mine\n")
    with pytest.raises(Problem, match="user_config_template"):
        load_manager_settings(tmp_path)
    (tmp_path / TEMPLATE).write_text("engine: {type: ThreadPoolEngine}\n")
    settings = load_manager_settings(tmp_path)
    assert settings.config.display_name == "mine"
    assert "ThreadPoolEngine" in settings.template
