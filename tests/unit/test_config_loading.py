# SPDX-License-Identifier: Apache-2.0
"""Mistakes in YAML are told with file, key and line."""

import pytest

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.config.loading import load_yaml, validate
from globus_compute_endpoint.problem import ExitStatus, Problem


def refused(text: str) -> Problem:
    with pytest.raises(Problem) as caught:
        validate(CommonConfig, load_yaml(text, "config.yaml"), "config.yaml")
    assert caught.value.exit_status is ExitStatus.CONFIGURATION
    return caught.value


def test_a_good_file_is_taken():
    text = "display_name: null\namqp_port: 443\nservices: {compute_url: 'https://c.example'}\n"
    config = validate(CommonConfig, load_yaml(text, "config.yaml"), "config.yaml")
    assert config.amqp_port == 443
    assert str(config.services.compute_url) == "https://c.example/"


def test_an_empty_file_has_only_defaults():
    assert validate(CommonConfig, load_yaml("", "x"), "x").heartbeat_period == 30


def test_an_unknown_option_is_named_with_its_line_and_a_guess():
    message = refused("debug: true\namqp_prot: 443\n").message
    assert "config.yaml" in message
    assert "amqp_prot (line 2): no such option (did you mean amqp_port?)" in message


def test_a_wrong_nested_value_is_named_with_its_path_and_line():
    message = refused("services:\n  compute_url: nonsense\n").message
    assert "services.compute_url (line 2)" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2", "line"),
        ("debug: true\ndebug: false\n", "'debug' is given twice"),
        ("- a\n- b\n", "must be a mapping"),
        ("1: 2\n", "must be a mapping"),
        ("a: !!python/object:os.system {}\n", "line 1"),
    ],
)
def test_what_is_no_mapping_of_options_is_refused(text: str, told: str):
    assert told in refused(text).message
