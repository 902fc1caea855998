# SPDX-License-Identifier: Apache-2.0
"""What SlurmProvider makes of what squeue and sacct say, at sites unlike our cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from parsl.jobs.states import JobState, JobStatus

from globus_compute_endpoint.engines.providers import provider_of
from globus_compute_endpoint.engines.slurm import TellingSlurmProvider


class Commands:
    """Scripts in place of Slurm's commands; each says what it is told to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def answer(self, name: str, out: str = "", err: str = "", status: int = 0) -> None:
        path = self.directory / name
        path.write_text(
            f"#!/bin/sh\necho \"$*\" >>{path}.calls\ncat <<'END'\n{out}\nEND\n"
            f"cat >&2 <<'END'\n{err}\nEND\nexit {status}\n"
        )
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        return (self.directory / f"{name}.calls").read_text().splitlines()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = Commands(tmp_path)
    made.answer("sacct")
    return made


def states(provider: TellingSlurmProvider, *jobs: str) -> list[tuple[JobState, str | None]]:
    for job in jobs:
        provider.resources.setdefault(
            job,
            {
                "status": JobStatus(JobState.PENDING),
                "job_stdout_path": None,
                "job_stderr_path": None,
            },
        )
    return [(each.state, each.message) for each in provider.status(list(jobs))]


def test_the_accounting_is_asked_for_what_the_controller_has_forgotten(commands: Commands):
    provider = TellingSlurmProvider(clusters="one")
    commands.answer("squeue", "CLUSTER: one\n7|RUNNING|None")
    commands.answer("sacct", "8|CANCELLED by 1000\n9|NODE_FAIL")
    assert states(provider, "7", "8", "9", "10") == [
        (JobState.RUNNING, "Slurm: RUNNING, None"),
        (JobState.CANCELLED, "was cancelled (Slurm: CANCELLED)"),
        (JobState.FAILED, "has lost a node (Slurm: NODE_FAIL)"),
        (JobState.COMPLETED, "has ended, and Slurm knows it no more"),
    ]
    assert commands.calls("sacct")[-1].endswith("--jobs=8,9,10")
    states(provider, "7", "8", "9", "10")
    assert commands.calls("squeue")[-1].endswith("--jobs=7")  # the others have ended
    assert all("--clusters=one" in each for each in commands.calls("squeue"))


def test_a_single_job_which_is_forgotten_has_ended(commands: Commands):
    commands.answer("sacct", status=1)
    provider = TellingSlurmProvider()
    commands.answer("squeue", err="slurm_load_jobs error: Invalid job id specified", status=1)
    assert states(provider, "7") == [(JobState.COMPLETED, "has ended, and Slurm knows it no more")]
    assert len(commands.calls("sacct")) == 1  # there is none, as the start has shown


@pytest.mark.parametrize("err", ["Unable to contact slurm controller", "Socket timed out"])
def test_nothing_is_known_while_the_controller_is_away(commands: Commands, err: str):
    provider = TellingSlurmProvider()
    commands.answer("squeue", err=f"slurm_load_jobs error: {err}", status=1)
    assert states(provider, "7") == [(JobState.PENDING, None)]


def test_a_command_which_does_not_answer_has_failed(commands: Commands):
    for each in ("sacct", "squeue"):
        commands.answer(each)
        (commands.directory / each).write_text("#!/bin/sh\nexec sleep 5\n")
    provider = provider_of({"type": "SlurmProvider", "cmd_timeout": 1})
    assert states(provider, "7") == [(JobState.PENDING, None)]


def test_jobs_are_not_queued_again_unless_they_are_to_be(commands: Commands):
    provider = TellingSlurmProvider(scheduler_options="#SBATCH --requeue")
    lines = provider.scheduler_options.splitlines()
    assert lines.index("#SBATCH --no-requeue") < lines.index("#SBATCH --requeue")
