# SPDX-License-Identifier: Apache-2.0
"""The command line of each container runtime, as a program in its place is given it."""

import contextlib
import json
import os
import shutil
import socket
from pathlib import Path

import psutil
import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import error_of, value
from support.waiting import until

pytestmark = pytest.mark.timeout(90)

LONG = pytest.mark.long  # what is much the same as another
STAND_IN = Path(__file__).parents[1] / "support/stand_in"
IMAGE = "registry.example.org/science/env:1.0 'beta'"
ENGINE = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  job_status_kwargs: {{strategy_period: 1}}
  provider: {{init_blocks: 0, worker_init: {worker_init}, launcher: {launcher}}}
  container_type: {kind}
"""
SINGLE = "{type: SingleNodeLauncher}"
OPTIONS = (
    r"""--env "A=b c" -v '/data dir:/data' --env H="$GC_STAND_IN_HOME/x" """
    r"""--env 'J={"a": "$GC_STAND_IN_HOME"}' --env B=a\\b*"""
)
WORDS = [
    *("--env", "A=b c"),
    *("-v", "/data dir:/data"),
    *("--env", "H=/on/the node/x"),
    *("--env", 'J={"a": "$GC_STAND_IN_HOME"}'),
    *("--env", r"B=a\b*"),
]


class Runtime:
    """A program which stands in for a container runtime, first on the PATH."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.kind = kind
        self.program = directory / kind
        directory.mkdir(exist_ok=True)
        shutil.copy(STAND_IN, self.program)

    def engine(self, options: str, launcher: str = SINGLE, **more: str) -> str:
        init = (
            f"export PATH={self.program.parent}:$PATH STAND_IN_IMAGE={json.dumps(IMAGE)}"
            ' GC_STAND_IN_HOME="/on/the node"'
        )
        text = ENGINE.format(worker_init=json.dumps(init), launcher=launcher, kind=self.kind)
        given = {"container_cmd_options": options, **more}
        return text + "".join(f"  {key}: {json.dumps(text)}\n" for key, text in given.items())

    def calls(self, command: str) -> list[list[str]]:
        """Return the words after ``command`` of each call."""
        record = self.program.with_name(f"{self.kind}.json")
        lines = record.read_text().splitlines() if record.exists() else []
        return [words[1:] for words in map(json.loads, lines) if words[0] == command]


def number() -> int:
    return 7


def workers(harness: Harness) -> list[psutil.Process]:
    """Return the processes of blocks: each has its run directory in its words."""
    runs = str(harness.directory / "htex")
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if any(runs in word for word in each.info["cmdline"] or ())
    ]


def inner(harness: Harness, words: list[str]) -> None:
    (run,) = (harness.directory / "htex").iterdir()
    assert words[:2] == ["python3", f"{run}/GlobusComputeEngine/pool.py"]
    assert "--block_id=0" in words
    assert f"--cert_dir {run}/GlobusComputeEngine/certificates" in " ".join(words)


@pytest.mark.parametrize(
    "kind", ["docker", pytest.param("podman", marks=LONG), pytest.param("podman-hpc", marks=LONG)]
)
def test_an_engine_is_given_options_as_they_are_written(
    harness: Harness, tmp_path: Path, kind: str
):
    runtime = Runtime(tmp_path / "bin", kind)
    harness.start(runtime.engine(OPTIONS, container_uri=IMAGE))
    assert value(harness, harness.submit(number)) == 7
    (words,) = runtime.calls("run")
    (run,) = (harness.directory / "htex").iterdir()
    (marks,) = (harness.directory / "start_marks").iterdir()
    assert words[:2] == ["--rm", "--cidfile"]
    assert Path(words[2]).parent == run / "containers"
    assert words[3:5] == [
        "--label",
        f"globus-compute-block=globus-compute-{harness.endpoint_id}.0",
    ]
    mounts = [run / "GlobusComputeEngine", marks, harness.directory / "tasks_working_dir"]
    expected = [*WORDS, *(word for each in mounts for word in ("-v", f"{each}:{each}")), IMAGE]
    assert words[5 : 5 + len(expected)] == expected
    inner(harness, words[5 + len(expected) :])
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    assert runtime.calls("kill")
    assert not workers(harness)
    assert not list(run.glob("containers/*.id"))


@pytest.mark.parametrize("kind", ["apptainer", pytest.param("singularity", marks=LONG)])
def test_a_runtime_without_an_engine_is_given_options_as_they_are_written(
    harness: Harness, tmp_path: Path, kind: str
):
    runtime = Runtime(tmp_path / "bin", kind)
    harness.start(runtime.engine(OPTIONS, container_uri=IMAGE))
    assert value(harness, harness.submit(number)) == 7
    (words,) = runtime.calls("run")
    (run,) = (harness.directory / "htex").iterdir()
    (marks,) = (harness.directory / "start_marks").iterdir()
    mounts = [run / "GlobusComputeEngine", marks, harness.directory / "tasks_working_dir"]
    expected = [*WORDS, *(word for each in mounts for word in ("--bind", f"{each}:{each}")), IMAGE]
    assert words[: len(expected)] == expected
    inner(harness, words[len(expected) :])
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    assert not workers(harness)


@pytest.mark.parametrize(
    ("template", "between"),
    [
        pytest.param(
            "docker run -v {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} $STAND_IN {EXECUTOR_LAUNCH_CMD}",
            [],
            marks=LONG,
        ),
        (
            """docker run -v {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} -e 'A={"b": "c  d"}' $STAND_IN """
            """bash -c "{ exec {EXECUTOR_LAUNCH_CMD}; }\"""",
            ["-e", 'A={"b": "c  d"}'],
        ),
        pytest.param(
            "docker run -v {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} $STAND_IN "
            "sh -c 'exec {EXECUTOR_LAUNCH_CMD}'",
            [],
            marks=LONG,
        ),
    ],
)
def test_a_command_of_the_sites_own(
    harness: Harness, tmp_path: Path, template: str, between: list[str]
):
    runtime = Runtime(tmp_path / "bin", "docker")
    template = template.replace("$STAND_IN", '"$STAND_IN_IMAGE"')
    engine = runtime.engine(template).replace("container_type: docker", "container_type: custom")
    harness.start(engine)
    assert value(harness, harness.submit(number)) == 7
    (words,) = runtime.calls("run")
    mount = f"{harness.directory}:{harness.directory}"
    expected = ["-v", mount, *between, IMAGE]
    assert words[: len(expected)] == expected
    rest = words[len(expected) :]
    inner(harness, rest if rest[0] == "python3" else rest[2].removeprefix("{ ").split()[1:])
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    assert not workers(harness)


def test_options_survive_a_launcher_which_writes_documents(harness: Harness, tmp_path: Path):
    runtime = Runtime(tmp_path / "bin", "docker")
    srun = tmp_path / "bin/srun"
    srun.write_text('#!/bin/sh\nuntil [ "$1" = bash ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    srun_launcher = "{type: SrunLauncher}"
    harness.start(runtime.engine(OPTIONS, srun_launcher, container_uri=IMAGE))
    assert value(harness, harness.submit(number)) == 7
    (words,) = runtime.calls("run")
    assert words[5 : 5 + len(WORDS)] == WORDS


def test_containers_of_a_killed_endpoint_are_ended_by_the_next(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runtime = Runtime(tmp_path / "bin", "docker")
    monkeypatch.setenv("PATH", f"{runtime.program.parent}:{os.environ['PATH']}")
    engine = runtime.engine("", container_uri=IMAGE)
    harness.start(engine)
    assert value(harness, harness.submit(number)) == 7
    assert harness.process is not None
    harness.process.kill()
    harness.process.wait()
    (note,) = harness.directory.glob("htex/*/containers/*.id")
    assert note.name.startswith(f"docker@{socket.gethostname()}@")
    container = note.read_text()
    earlier = workers(harness)
    for each in earlier:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends with the endpoint
            if each.name() == "bash":
                each.kill()  # so that it cannot be the block's own script which ends the container
    assert not runtime.calls("kill")
    harness.start(engine)
    assert value(harness, harness.submit(number)) == 7
    assert runtime.calls("kill")[0] == [container]
    until(lambda: not any(each.is_running() for each in earlier), 5)
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0


@pytest.mark.parametrize(
    ("program", "told"),
    [
        pytest.param(None, "docker: command not found", marks=LONG),
        ("#!/bin/sh\necho 'Error: no such image: lost' >&2\nexit 125\n", "no such image: lost"),
    ],
)
def test_what_a_runtime_says_is_in_the_tasks_error(
    harness: Harness, tmp_path: Path, program: str | None, told: str
):
    runtime = Runtime(tmp_path / "bin", "docker")
    runtime.program.unlink()
    if program is not None:
        runtime.program.write_text(program)
        runtime.program.chmod(0o755)
    harness.start(runtime.engine("", container_uri="lost"))
    _, text = error_of(harness, harness.submit(number))
    assert told in text
    assert "the container's image needs Parsl" in text
