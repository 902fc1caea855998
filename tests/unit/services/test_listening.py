# SPDX-License-Identifier: Apache-2.0
"""Certificates of the services; tests/system/test_three_machines.py has them shown and renewed."""

from pathlib import Path

import pytest

from globus_compute_services.listening import tls_context
from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.settings import TlsSettings
from support.authority import Authority


@pytest.fixture
def files(tmp_path: Path) -> TlsSettings:
    certificate, key = Authority().issue(["compute.site.example"])
    (tmp_path / "certificate.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    return TlsSettings(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem")


def test_a_pair_that_fits(files: TlsSettings) -> None:
    assert tls_context(files).minimum_version.name == "TLSv1_2"


@pytest.mark.parametrize("file", ["certificate", "key"])
@pytest.mark.parametrize("content", [None, "", "another's"])
def test_what_does_not_fit_is_named(files: TlsSettings, file: str, content: str | None) -> None:
    path: Path = getattr(files, file)
    path.unlink()
    if content is not None:
        others = dict(
            zip(("certificate", "key"), Authority().issue(["elsewhere.example"]), strict=True)
        )
        path.write_text(others[file] if content else "")
    with pytest.raises(Problem, match=str(path)) as caught:
        tls_context(files)
    assert caught.value.exit_status == ExitStatus.CONFIGURATION
