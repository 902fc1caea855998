# SPDX-License-Identifier: Apache-2.0
"""The authorities which a manager hands on to user endpoints."""

from pathlib import Path

import pytest

from globus_compute_endpoint.config.certificates import read_certificates
from globus_compute_endpoint.config.manager import load_manager_settings
from globus_compute_endpoint.problem import ExitStatus, Problem
from support.authority import Authority


def test_the_certificates_of_a_bundle_without_its_comments(tmp_path: Path):
    bundle = tmp_path / "ca.pem"
    first, second = Authority().certificate, Authority().certificate
    bundle.write_text(f"# Főtanúsítvány\n{first}\n# another\n{second}", encoding="utf-8")
    assert read_certificates(bundle).split() == f"{first}{second}".split()


@pytest.mark.parametrize("content", ["", "nothing of the kind", "-----BEGIN CERTIFICATE-----\nAA"])
def test_a_file_without_one_is_named(tmp_path: Path, content: str):
    bundle = tmp_path / "ca.pem"
    bundle.write_text(content)
    (tmp_path / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
    config = f"multi_user: true\nservices: {{ca_file: {bundle}}}\n"
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(Problem, match=r"ca\.pem") as caught:
        load_manager_settings(tmp_path)
    assert caught.value.exit_status == ExitStatus.CONFIGURATION


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(Problem, match="No such file"):
        read_certificates(tmp_path / "missing.pem")
