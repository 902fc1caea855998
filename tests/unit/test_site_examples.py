# SPDX-License-Identifier: Apache-2.0
"""The examples of sites load, down to Parsl's objects, and take nothing that they should not."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from globus_compute_endpoint.config.engines import BlocksEngineConfig
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.engines.htex_options import executor_factory
from globus_compute_endpoint.problem import Problem
from globus_compute_endpoint.user_endpoint.blueprint import Blueprint, check, render
from globus_compute_endpoint.user_endpoint.configuration import checked

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
KINDS = sorted(each.parent.name for each in EXAMPLES.glob("*/user_config_template.yaml.j2"))
PERSON = {
    "local": {"uname": "alice", "uid": 1001, "gid": 1001, "groups": [], "dir": "/home/alice"},
    "globus": {"id": "00000000-0000-0000-0000-000000000000"},
}


def blueprint(kind: str, variables: dict[str, Any]) -> Blueprint:
    directory = EXAMPLES / kind
    template = (directory / "user_config_template.yaml.j2").read_text()
    return Blueprint.model_validate(
        {
            # The machine's own networks are not the site's.
            "template": re.sub(r"ifname: (ib0|bond0)", "ifname: lo", template),
            "schema": json.loads((directory / "user_config_schema.json").read_text()),
            "user_opts": variables,
            "mapped_identity": PERSON,
        }
    )


def variables(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((EXAMPLES / kind / "variables.json").read_text())
    return document


def required(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    schema = json.loads((EXAMPLES / kind / "user_config_schema.json").read_text())
    return {name: given[name] for name in schema.get("required", [])}


def load(kind: str, given: dict[str, Any]) -> UserEndpointConfig:
    made = blueprint(kind, given)
    return check(made, render(made))


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client for a cluster, of which there is none here: the provider is made, and no more."""
    client, config = ModuleType("kubernetes.client"), ModuleType("kubernetes.config")
    client.__dict__["CoreV1Api"] = SimpleNamespace
    config.__dict__["load_kube_config"] = lambda: None
    package = ModuleType("kubernetes")
    package.__dict__.update(client=client, config=config)
    for module in (package, client, config):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("parsl.providers.kubernetes.kube._kubernetes_enabled", True)
    monkeypatch.setattr("parsl.providers.kubernetes.kube.client", client, raising=False)
    monkeypatch.setattr("parsl.providers.kubernetes.kube.config", config, raising=False)


@pytest.mark.usefixtures("kubernetes")
@pytest.mark.parametrize("least", [False, True], ids=["as shown", "only what is required"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_makes_an_engine(kind: str, least: bool) -> None:
    given = variables(kind)
    config = load(kind, required(kind, given) if least else given)
    assert config.idle_heartbeats_soft
    if isinstance(config.engine, BlocksEngineConfig):
        provider = executor_factory(config.engine)().provider
        assert provider.init_blocks in (0, 1)
        assert provider.min_blocks == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_researchers_send_is_theirs_alone_to_suffer(kind: str) -> None:
    given = variables(kind)
    for name, value in given.items():
        wrong: tuple[Any, ...] = (f"{value}\nengine: null", f"{value}\n", '"', [value], 10**9, None)
        if name == "worker_init":  # a script of their own; it stays one value
            script = '"\nengine: {type: ThreadPoolEngine}\n'
            rendered = yaml.safe_load(render(blueprint(kind, given | {name: script})))
            assert rendered["engine"]["provider"]["worker_init"] == script
            continue
        for each in wrong:
            with pytest.raises(Problem) as refused:
                render(blueprint(kind, given | {name: each}))
            assert refused.value.code == "USER_OPTIONS_INVALID"
            assert name in refused.value.message
    with pytest.raises(Problem):
        render(blueprint(kind, given | {"provider": "LocalProvider"}))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("slurm-partitions", {"partition": "debug", "minutes": 31}),
        ("slurm-partitions", {"partition": "debug", "max_blocks": 2}),
        ("slurm-partitions", {"minutes": 1441}),
        ("slurm-partitions", {"partition": "long", "minutes": 5761}),
        ("pbspro", {"account": "a", "queue": "debug", "minutes": 61}),
    ],
)
def test_limits_of_a_partition_hold(kind: str, given: dict[str, Any]) -> None:
    with pytest.raises(Problem, match="is greater than the maximum"):
        render(blueprint(kind, given))


def test_what_is_left_out_is_within_the_limits_of_a_partition() -> None:
    config = load("slurm-partitions", {"partition": "debug"})
    assert isinstance(config.engine, BlocksEngineConfig)
    assert config.engine.provider["max_blocks"] == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("slurm")])
def test_a_job_which_shares_its_node_has_a_core_for_each_worker(kind: str) -> None:
    engine = load(kind, variables(kind)).engine
    assert isinstance(engine, BlocksEngineConfig)
    if not engine.provider["exclusive"]:
        assert (
            engine.provider["cores_per_node"] >= (engine.model_extra or {})["max_workers_per_node"]
        )


def test_a_longer_limit_is_that_of_its_partition() -> None:
    config = load("slurm-partitions", {"partition": "long", "minutes": 5760})
    assert isinstance(config.engine, BlocksEngineConfig)
    assert config.engine.provider["walltime"] == "96:00:00"
    assert config.engine.provider["qos"] == "long"


def test_the_single_persons_loads() -> None:
    path = EXAMPLES / "laptop/config.yaml"
    config = checked(yaml.safe_load(path.read_text()), str(path))
    assert isinstance(config.engine, BlocksEngineConfig)
    executor_factory(config.engine)


def test_the_table_lists_them_all() -> None:
    listed = re.findall(r"^\| \[([a-z-]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*KINDS, "laptop"])
    assert len(KINDS) >= 10
