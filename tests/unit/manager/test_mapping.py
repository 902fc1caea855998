# SPDX-License-Identifier: Apache-2.0
import json
from uuid import UUID

import pytest

from globus_compute_endpoint.manager.mapping import IdentityMapping
from globus_compute_endpoint.manager.protocol import Identity
from globus_compute_endpoint.problem import ExitStatus, Problem


def document(match="(.*)@example.org"):
    return {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": match, "output": "{0}"}],
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps([document()]))
    return path


def identity(username, number=1):
    return Identity(sub=UUID(int=number), username=username)


def test_the_identity_that_matches_gives_the_local_name(path):
    mapping = IdentityMapping(path)
    mapped = mapping.map((identity("a@other.org", 1), identity("alice@example.org", 2)))
    assert mapped is not None
    assert mapped.uname == "alice"
    assert mapped.identity.sub == UUID(int=2)


def test_nobody_is_nobody(path):
    assert IdentityMapping(path).map((identity("a@other.org"),)) is None
    assert IdentityMapping(path).map(()) is None


def test_a_new_version_takes_effect_and_an_invalid_one_does_not(path, caplog):
    mapping = IdentityMapping(path)
    path.write_text(json.dumps([document("(.*)@other.org")]))
    mapping.reload()
    assert mapping.map((identity("a@other.org"),)) is not None
    path.write_text("[{")
    mapping.reload()
    assert "the old stays" in caplog.text
    assert mapping.map((identity("a@other.org"),)) is not None


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "[1]", '[{"DATA_TYPE": "unheard_of#1.0.0"}]', '[{"DATA_TYPE": "x"}]'],
)
def test_what_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "mapping.json"
    path.write_text(text)
    with pytest.raises(Problem) as caught:
        IdentityMapping(path)
    assert caught.value.exit_status == ExitStatus.CONFIGURATION


def test_a_missing_file_is_a_problem_of_its_own(tmp_path):
    with pytest.raises(Problem) as caught:
        IdentityMapping(tmp_path / "none")
    assert caught.value.exit_status == ExitStatus.NO_PERMISSION
