# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import yaml
from click.testing import CliRunner

from globus_compute_endpoint.cli import cli
from globus_compute_endpoint.config.manager import load_manager_settings
from globus_compute_endpoint.config.template import render_user_config
from globus_compute_endpoint.manager.mapping import IdentityMapping
from globus_compute_endpoint.problem import ExitStatus, Problem


def configure(directory, *arguments):
    result = CliRunner().invoke(cli, ["--config-dir", str(directory), "configure", *arguments])
    if result.exception:
        raise result.exception
    return result.output


def test_a_single_user_endpoint_has_the_documented_default_configuration(tmp_path):
    said = configure(tmp_path, "mine")
    path = tmp_path / "mine" / "config.yaml"
    assert "Created profile for endpoint named <mine>" in said
    assert f"Configuration file: {path}" in said
    assert yaml.safe_load(path.read_text()) == {
        "display_name": None,
        "engine": {
            "max_workers_per_node": 1,
            "type": "GlobusComputeEngine",
            "provider": {
                "type": "LocalProvider",
                "init_blocks": 1,
                "max_blocks": 1,
                "min_blocks": 0,
            },
        },
    }
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_manager_has_files_which_load_as_they_are(tmp_path):
    said = configure(tmp_path, "--multi-user", "second", "--display-name", "Ünïcode: yes")
    directory = tmp_path / "second"
    for name in directory.iterdir():
        assert str(name) in said
    settings = load_manager_settings(directory)
    assert settings.config.display_name == "Ünïcode: yes"
    assert settings.environment == {}
    assert settings.config.identity_mapping_config_path is not None
    IdentityMapping(settings.config.identity_mapping_config_path)
    options = {"worker_init": 'echo "x"\nexit: 1'}
    rendered = yaml.safe_load(
        render_user_config(settings.template, settings.schema, options, {}, {})
    )
    assert rendered["engine"]["provider"]["worker_init"] == options["worker_init"]
    assert rendered["endpoint_setup"] is None
    assert json.loads((directory / "user_config_schema.json").read_text())["type"] == "object"


def test_an_endpoint_is_not_overwritten(tmp_path):
    configure(tmp_path, "mine")
    with pytest.raises(Problem) as caught:
        configure(tmp_path, "mine")
    assert caught.value.exit_status == ExitStatus.CANNOT_CREATE


@pytest.mark.parametrize("name", ["../up", "a/b", "-x", ".hidden", "a b", "", "users", "ü"])
def test_names_are_checked(tmp_path, name):
    with pytest.raises(Problem):
        configure(tmp_path, "--", name)
    assert not list(tmp_path.iterdir())
