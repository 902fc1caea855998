# SPDX-License-Identifier: Apache-2.0
"""Which options of containers are taken, and what is told of the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from globus_compute_endpoint.config.containers import ContainerOptions
from globus_compute_endpoint.config.loading import load_yaml
from globus_compute_endpoint.engines.containers import remove_containers
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.configuration import checked

DOCKER = "  container_type: docker\n  container_uri: python:3.13\n"


def check(engine: str) -> ContainerOptions:
    config = checked(load_yaml(f"engine:\n{engine}", "config.yaml"), "config.yaml").engine
    assert isinstance(config, ContainerOptions)
    return config


@pytest.mark.parametrize("kind", ["null", "None"])
def test_no_container_is_a_type_too(kind: str):
    assert check(f"  container_type: {kind}").container_type is None


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (
            "  container_type: dokcer\n  container_uri: x",
            "engine.container_type (line 2): there is no 'dokcer' (did you mean docker?); known"
            " are apptainer, docker, singularity, podman, podman-hpc, custom, None",
        ),
        ("  container_type: docker", "engine.container_uri (line 1): container_type docker needs"),
        ("  container_uri: x", "engine.container_uri (line 2): has no meaning without container_t"),
        ("  container_cmd_options: -v", "engine.container_cmd_options (line 2): has no meaning wi"),
        ("  container_type: custom", "engine.container_cmd_options (line 1): container_type cust"),
        (
            "  container_type: custom\n  container_cmd_options: docker run x {EXECUTOR_RUNDIR}",
            "with {EXECUTOR_LAUNCH_CMD} for that of the workers",
        ),
        (
            "  container_type: custom\n  container_uri: x\n"
            "  container_cmd_options: '{EXECUTOR_LAUNCH_CMD}'",
            "engine.container_uri (line 3): has no meaning here",
        ),
        ("  container_type: docker\n  container_uri: --privileged", "taken for an option"),
        (f"{DOCKER}  container_cmd_options: '-e \"A'", "no words of a command line: No closing q"),
        (f"{DOCKER}  container_cmd_options: -v a:b; id", "(line 4): ';' would end the command"),
        (f"{DOCKER}  container_cmd_options: -e A=b&c", "'&' would end the command: quote it"),
        (f"{DOCKER}  container_cmd_options: '-v a:b # x'", "'#' would end the command"),
        (f"{DOCKER}  container_cmd_options: |\n    -v a:b \\\n    #x", "'#' would end the command"),
        (
            f"{DOCKER}  container_cmd_options: -e A=$'\\''; id; echo \\'",
            "are not understood here: leave the $ out",
        ),
        (f"{DOCKER}  container_cmd_options: --rm -itd", "leave --detach out"),
        (f"{DOCKER}  container_cmd_options: --detach --rm", "leave --detach out"),
        (f"{DOCKER}  container_cmd_options: -e A=$(id)", "commands are not run in it"),
        (f"{DOCKER}  container_cmd_options: '-e \"A=`id`\"'", "commands are not run in it"),
    ],
)
def test_a_wrong_option_is_told_with_its_key_and_line(engine: str, told: str):
    with pytest.raises(Problem) as caught:
        check(engine)
    assert caught.value.exit_status is ExitStatus.CONFIGURATION
    assert told in caught.value.message


@pytest.mark.parametrize(
    "options",
    [
        "-e 'A=$(id); `id`' --pids-limit 100 -e B=a#b",
        '-e "A=b;c d" -v $HOME/data:/data:ro -e "C=\\$(id)"',
        "-e A=\\;",
        "-it --detach-keys=a --device d --detach=false",
    ],
)
def test_what_is_quoted_is_taken_as_it_stands(options: str):
    assert ContainerOptions(
        container_type="docker", container_uri="x", container_cmd_options=options
    ).container_cmd_options == options  # fmt: skip


def test_options_on_several_lines_are_one_command():
    options = check(f"{DOCKER}  container_cmd_options: |\n    -v /a:/a\n    -e 'A=b\n\n    c'\n")
    assert options.container_cmd_options == "-v /a:/a -e 'A=b\n\nc'"


def test_podman_is_refused_where_no_new_privs_is_set(tmp_path: Path):
    program = textwrap.dedent("""\
        import os, sys
        from globus_compute_endpoint.config.loading import load_yaml
        from globus_compute_endpoint.host import libc
        from globus_compute_endpoint.problem import Problem
        from globus_compute_endpoint.user_endpoint.configuration import checked
        document = load_yaml(sys.argv[1], "config.yaml")
        checked(document, "config.yaml")  # and import what the user below might not be able to
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        libc.set_no_new_privs()
        try:
            checked(document, "config.yaml")
        except Problem as problem:
            print(problem.message)
        """)
    engine = "engine:\n  container_type: {}\n  container_uri: x\n  provider: {{type: {}}}\n"

    def told(kind: str, provider: str) -> str:
        document = engine.format(kind, provider)
        done = subprocess.run(
            [sys.executable, "-c", program, document],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return done.stdout

    refusal = told("podman", "LocalProvider")
    assert "config.yaml: engine.container_type (line 2): podman cannot run here" in refusal
    assert "no_new_privs: false" in refusal
    assert told("podman", "SlurmProvider") == ""  # its jobs are not our children
    assert told("docker", "LocalProvider") == ""  # its daemon is not either


def test_a_note_which_its_block_removes_meanwhile_stops_nobody(tmp_path: Path):
    notes = tmp_path / "run/containers"
    notes.mkdir(parents=True)
    note = notes / f"docker@{socket.gethostname()}@1.id"
    note.symlink_to("gone")  # listed, and cannot be read
    remove_containers(tmp_path)
    assert note.is_symlink()
