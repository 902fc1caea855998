# SPDX-License-Identifier: Apache-2.0
"""What holds of all commands."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from globus_compute_endpoint.cli import COMMANDS, cli

TREE = Path(__file__).parents[2]
MAN_PAGE = TREE / "docs/man/globus-compute-endpoint.1.md"
SHOWN = sorted(name for name in COMMANDS if not name.startswith("_"))


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "globus_compute_endpoint", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(TREE / "src")}
    return subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", SHOWN)
def test_each_command_explains_itself_and_all_its_options(name: str) -> None:
    found = command(name)
    assert found.help
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


@pytest.mark.parametrize("name", SHOWN)
def test_each_command_is_in_the_manual(name: str) -> None:
    assert f"**{name}**" in MAN_PAGE.read_text()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_what_prints_a_table_prints_json_too(name: str) -> None:
    found = command(name)
    assert found.callback is not None
    module = inspect.getmodule(inspect.unwrap(found.callback))
    assert module is not None
    if "print_table(" in inspect.getsource(module):
        assert any(option.name == "as_json" for option in found.params)


def test_help_is_printed_and_nothing_else() -> None:
    helped = run("list", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("Usage: globus-compute-endpoint list ")
    listed = run("-h").stdout
    assert all(f"\n  {name} " in listed for name in SHOWN)
    assert not any(f"\n  {name} " in listed for name in set(COMMANDS) - set(SHOWN))


def test_version() -> None:
    assert "Globus Compute Endpoint version: " in run("version").stdout
    assert set(json.loads(run("version", "--json").stdout)) == {"endpoint", "sdk"}


def test_mistakes_are_told_in_a_line_and_a_hint() -> None:
    unknown = run("strat")
    assert unknown.returncode == 2
    assert "Traceback" not in unknown.stderr
    missing = run("-c", "/nonexistent", "start", "mine")
    assert missing.returncode == 78
    first, second = missing.stderr.splitlines()
    assert first.startswith("Error: there is no endpoint mine")
    assert second == "  create it: globus-compute-endpoint configure mine"


def test_a_path_which_the_system_refuses_is_no_defect(tmp_path: Path) -> None:
    refused = run("-c", str(tmp_path / ("x" * 300)), "start", "mine")
    assert (refused.returncode, "File name too long" in refused.stderr) == (73, True)
    assert "this is a defect" not in refused.stderr


@pytest.mark.parametrize("options", [[], ["--multi-user"]])
def test_an_endpoint_which_cannot_be_written_is_not_there(
    tmp_path: Path, options: list[str]
) -> None:
    """The limit stands for a full disk: nothing more can be written to any file."""
    command = ["prlimit", "--fsize=0", sys.executable, "-m", "globus_compute_endpoint"]
    environment = {**os.environ, "PYTHONPATH": str(TREE / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-c", str(tmp_path), "configure", *options, "mine"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 73, done.stderr
    assert "cannot" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
