# SPDX-License-Identifier: Apache-2.0
"""``render-user-config``, and what templates may do, through the real command."""

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from globus_compute_endpoint.cli import main

ENGINE = "engine: {type: ThreadPoolEngine}\n"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", str(tmp_path))

    def call(*arguments: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["render-user-config", *arguments])
        streams = capsys.readouterr()
        assert ended.value.code == status, streams.err
        return streams.out + streams.err

    return call


@pytest.fixture
def manager(tmp_path: Path) -> Path:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "config.yaml").write_text("amqp_port: 5671\ndisplay_name: Mine\n")
    return directory


def write(manager: Path, template: str, name: str = "user_config_template.yaml.j2") -> None:
    (manager / name).write_text(template)


def test_it_prints_what_a_user_endpoint_gets(run: Any, manager: Path):
    write(manager, ENGINE + "display_name: {{ ACCOUNT }} # {{ N }}\n")
    shown = run("mine", "--user-options", '{"ACCOUNT": "A: 1", "N": 3}', "--set", "N=4")
    assert shown == ENGINE + 'display_name: "A: 1" # 4\n'
    told = json.loads(run("mine", "--set", "ACCOUNT=a b", "--set", "N=x", "--json"))
    assert told["rendered"].endswith('display_name: "a b" # "x"\n')
    assert told["config"]["display_name"] == "a b"
    assert told["config"]["amqp_port"] == 5671  # the manager's, where the template has none


def test_what_is_wrong_is_named_with_its_line(run: Any, manager: Path):
    write(manager, ENGINE + "display_nam: x\n")
    said = run("mine", status=78)
    assert ENGINE in said  # what the line is of
    assert "display_nam (line 2): no such option (did you mean display_name?)" in said
    write(manager, "account: {{ ACCOUNT }}\n")
    assert "'ACCOUNT' is undefined" in run("mine", status=78)
    write(manager, 'display_name: "{{ ACCOUNT }}"\n')
    said = run("mine", "--set", "ACCOUNT=a", status=78)
    assert "line 1: expected" in said
    assert "come with their double quotes, and need none around" in said


def test_the_schema_refuses(run: Any, manager: Path):
    write(manager, ENGINE)
    schema = {"properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    (manager / "user_config_schema.json").write_text(json.dumps(schema))
    assert "user_endpoint_config.n: 'x' is not of type 'integer'" in run(
        "mine", "--set", "n=x", status=78
    )
    assert "'m' was unexpected" in run("mine", "--set", "m=1", status=78)
    run("mine", "--set", "n=1")


def test_reserved_names_hold_who_and_what(run: Any, manager: Path):
    names = ("_GC.", "")
    lines = [
        line
        for prefix in names
        for line in (
            f"# {{{{ {prefix}mapped_identity.local.uname }}}}",
            f"# {{{{ {prefix}mapped_identity.globus.id }}}}",
            f"# {{{{ {prefix}parent_config.display_name }}}}",
            f"# {{{{ {prefix}parent_config.amqp_port }}}}",
            f"# {{{{ {prefix}user_runtime.python.version }}}}",
        )
    ]
    write(manager, ENGINE + "\n".join(lines) + "\n")
    runtime = '{"python": {"version": "3.12.1"}}'
    identity = "11111111-2222-3333-4444-555555555555"
    shown = run("mine", "--as", "daemon", "--identity", identity, "--runtime", runtime)
    expected = ["# daemon", f"# {identity}", "# Mine", "# 5671", '# "3.12.1"']
    assert shown.splitlines()[1:] == expected * 2
    mine = run("mine", "--runtime", runtime).splitlines()[1]
    assert mine == f"# {pwd.getpwuid(os.getuid()).pw_name}"
    for name in ("_GC", "parent_config", "user_runtime", "mapped_identity"):
        assert "reserved" in run("mine", "--set", f"{name}=1", status=78)


def test_no_addresses_nor_other_users_in_parent_config(run: Any, manager: Path):
    config = "allowed_users: [carol]\nservices: {compute_url: 'https://u:secret@example.org'}\n"
    (manager / "config.yaml").write_text(config)
    write(manager, ENGINE + "# {{ parent_config }}\n")
    shown = run("mine")
    assert "mu_child_ep_grace_period_s" in shown
    assert "carol" not in shown and "secret" not in shown


def test_templates_beside_it_can_be_included_and_extended(run: Any, manager: Path):
    write(manager, "engine: {{ ENGINE | default('{type: ThreadPoolEngine}') }}\n", "engine.j2")
    write(manager, "{% block engine %}{% endblock %}display_name: {{ NAME }}\n", "base.yaml.j2")
    write(manager, "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}", "macros.j2")
    write(
        manager,
        '{% extends "base.yaml.j2" %}{% block engine %}{% include "engine.j2" %}'
        '{% from "macros.j2" import twice %}# {{ twice(1) }}\n{% endblock %}',
    )
    assert run("mine", "--set", "NAME=x") == ENGINE + '# 11\ndisplay_name: "x"\n'


@pytest.mark.parametrize("name", ["nothing.j2", "../secret.j2", "/etc/passwd", "config.yaml"])
def test_nothing_else_can(run: Any, manager: Path, name: str):
    (manager.parent / "secret.j2").write_text("secret")
    write(manager, f'{{% include "{name}" %}}')
    said = run("mine", status=78)
    assert f"there is no {name} among the templates beside it" in said
    assert "secret\n" not in said


def test_a_broken_included_template_is_named(run: Any, manager: Path):
    write(manager, '{% include "part.j2" %}')
    write(manager, "\n{% if %}", "part.j2")
    assert "part.j2, line 2" in run("mine", status=78)
    write(manager, "x" * (2 << 20), "part.j2")
    assert "more than 1048576" in run("mine", status=78)


def test_loose_files(run: Any, tmp_path: Path):
    template, schema = tmp_path / "t.j2", tmp_path / "s.json"
    template.write_text(ENGINE + "endpoint_setup: echo {{ x | shell_escape }}\n")
    schema.write_text('{"required": ["x"]}')
    options = tmp_path / "options.json"
    options.write_text('{"x": "a b"}')
    files = ("--template", str(template), "--schema", str(schema))
    assert "echo 'a b'" in run(*files, "--user-options", f"@{options}")
    assert "'x' is a required property" in run(*files, status=78)


def test_wrong_usage(run: Any, manager: Path):
    write(manager, ENGINE)
    run(status=2)
    run("mine", "--schema", str(manager / "config.yaml"), status=2)
    assert "write KEY=VALUE" in run("mine", "--set", "x", status=2)
    assert "JSON object" in run("mine", "--user-options", "[]", status=2)
    assert "not JSON" in run("mine", "--runtime", "{", status=2)
    assert "there is no local user nobody-knows" in run("mine", "--as", "nobody-knows", status=78)
    assert "config.yaml" in run("elsewhere", status=78)
