# SPDX-License-Identifier: Apache-2.0
"""A reload is asked for by root, waited for, and takes all or nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.manager.in_force import InForce, is_seen_by_gateway
from globus_compute_endpoint.manager.reloading import ReloadSocket, request_reload
from globus_compute_endpoint.problem import ExitStatus, Problem

MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@here", "output": "{0}"}],
    }
]


class Paths(EndpointPaths):
    """An endpoint's files in a directory of the test's."""

    root: Path

    @property
    def configuration(self) -> Path:
        return self.root


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_config(tmp_path)
    (tmp_path / "identity_mapping.json").write_text(json.dumps(MAPPING))
    (tmp_path / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
    return tmp_path


def write_config(directory: Path, more: str = "", mapping: str = "identity_mapping.json") -> None:
    text = f"multi_user: true\nidentity_mapping_config_path: {directory / mapping}\n{more}"
    (directory / "config.yaml").write_text(text)


def in_force(directory: Path) -> InForce:
    paths = Paths("demo")
    object.__setattr__(paths, "root", directory)
    return InForce(paths)


def test_new_files_take_the_place_of_the_old_ones(files: Path) -> None:
    async def reload() -> None:
        rules = in_force(files)
        write_config(files, "max_user_endpoints: 7\n", "other.json")
        (files / "other.json").write_text(json.dumps(MAPPING))
        before = rules.settings
        await rules.reload()
        assert before.config.max_user_endpoints == 512
        assert rules.settings.config.max_user_endpoints == 7
        assert rules.mapping.path == files / "other.json"
        assert is_seen_by_gateway(before, rules.settings)

    asyncio.run(reload())


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.yaml", "multi_user: true\nunheard_of: 1\n", "unheard_of"),
        ("identity_mapping.json", "[{", "identity_mapping.json"),
        ("user_config_schema.json", '{"type": 3}', "user_config_schema.json"),
        ("user_environment.yaml", "A: [1]\n", "user_environment.yaml"),
    ],
)
def test_where_one_file_is_invalid_all_old_ones_stay(
    files: Path, file: str, content: str, said: str
) -> None:
    async def reload() -> None:
        rules = in_force(files)
        before = rules.settings
        write_config(files, "max_user_endpoints: 7\n")
        (files / file).write_text(content)
        with pytest.raises(Problem, match="stays so") as refused:
            await rules.reload()
        assert said in refused.value.message
        assert refused.value.exit_status == ExitStatus.CONFIGURATION
        assert rules.settings is before

    asyncio.run(reload())


def test_what_only_user_endpoints_see_is_nothing_to_the_gateway(files: Path) -> None:
    rules = in_force(files)
    (files / "user_environment.yaml").write_text("A: b\n")
    after = in_force(files).settings
    assert after != rules.settings
    assert not is_seen_by_gateway(rules.settings, after)


def test_who_asks_gets_what_came_of_it(tmp_path: Path) -> None:
    outcomes: list[tuple[str, ...] | Problem] = [
        ("limits",),
        Problem("CONFIG_INVALID", "config.yaml: no", "mend it", ExitStatus.CONFIGURATION),
    ]

    async def carry_out() -> tuple[str, ...]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    async def ask() -> None:
        path = tmp_path / "reload"
        listening = ReloadSocket(path, carry_out)
        assert path.stat().st_mode & 0o777 == 0o600
        assert await asyncio.to_thread(request_reload, path) == ("limits",)
        with pytest.raises(Problem) as refused:
            await asyncio.to_thread(request_reload, path)
        assert (str(refused.value), refused.value.exit_status) == ("config.yaml: no (mend it)", 78)
        listening.close()

    asyncio.run(ask())


def test_without_a_manager_it_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="does not answer") as refused:
        request_reload(tmp_path / "reload")
    assert refused.value.exit_status == ExitStatus.TEMPORARY
