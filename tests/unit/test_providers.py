# SPDX-License-Identifier: Apache-2.0
"""Parsl's providers from YAML: their options, and the scripts which they submit."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import parsl.launchers
import parsl.providers
import parsl.providers.kubernetes.kube as kube
import pytest
import yaml

from globus_compute_endpoint.config.loading import WrongOption
from globus_compute_endpoint.engines.batch_jobs import JobGate
from globus_compute_endpoint.engines.providers import provider_of
from globus_compute_endpoint.worker.shipping import pool_command

# What each needs beside the defaults, and a walltime that it refuses.
BATCH = {
    "CondorProvider": ("condor_submit", "walltime: soon"),
    "GridEngineProvider": ("qsub", "walltime: '10:00'"),
    "LSFProvider": ("bsub", "walltime: '00:00:30'"),
    "PBSProProvider": ("qsub", "walltime: 1h"),
    "SlurmProvider": ("sbatch", "walltime: 10:00:00"),
    "TorqueProvider": ("qsub", "walltime: 10:00:00"),
}
PACKAGED = {
    "AWSProvider": ("boto3", "image_id: ami-1, key_name: mine"),
    "AzureProvider": ("msrestazure", "vm_reference: {publisher: Canonical}"),
    "GoogleCloudProvider": (
        "googleapiclient",
        "project_id: p, key_file: /k, region: r, os_project: o, os_family: f",
    ),
    "KubernetesProvider": ("kubernetes", "image: 'science:1', persistent_volumes: [[claim, /d]]"),
}
LAUNCHERS = sorted(set(parsl.launchers.__all__))
# The answer which each scheduler's command gives, in Parsl's eyes.
FAKE = """\
#!/bin/sh
for script; do :; done
[ -e "$script" ] || script=/dev/stdin
cat "$script" >"$SUBMITTED"
case "$0" in
  *bsub) echo "Job <7> is submitted to queue <normal>." ;;
  *sbatch) echo "Submitted batch job 7" ;;
  *condor_submit) echo "1 job(s) submitted to cluster 7." ;;
  *) echo 7 ;;
esac
"""


def made(text: str) -> Any:
    return provider_of(yaml.safe_load(f"{{{text}}}"))


def refused(text: str) -> str:
    with pytest.raises(WrongOption) as wrong:
        made(text)
    return str(wrong.value)


def test_all_providers_of_parsl_are_tried():
    assert {"LocalProvider", *BATCH, *PACKAGED} == set(parsl.providers.__all__)


@pytest.mark.parametrize("kind", ["LocalProvider", *BATCH])
def test_each_option_of_a_provider_can_be_given(kind: str):
    parameters = inspect.signature(getattr(parsl.providers, kind)).parameters
    defaults = {
        name: each.default for name, each in parameters.items() if name not in ("self", "launcher")
    }
    provider = provider_of({"type": kind, **defaults, "launcher": {"type": "SimpleLauncher"}})
    assert isinstance(provider, getattr(parsl.providers, kind))
    for text in ("init_blocs: 1", "nodes_per_blok: 1"):
        assert "no such option (did you mean" in refused(f"type: {kind}, {text}")
    for name in ("channel: {type: LocalChannel}", "move_files: false"):
        assert "removed from Parsl; leave it out" in refused(f"type: {kind}, {name}")
    assert ".worker_init: must be text" in refused(f"type: {kind}, worker_init: 1")
    assert ".cmd_timeout: must be" in refused(f"type: {kind}, cmd_timeout: soon")
    assert ".launcher: must be a mapping" in refused(f"type: {kind}, launcher: SrunLauncher")


@pytest.mark.parametrize("kind", BATCH)
def test_a_wrong_walltime_is_told(kind: str):
    told = refused(f"type: {kind}, {BATCH[kind][1]}")
    assert told.startswith("engine.provider.walltime: must be HH:MM:SS")
    assert made(f"type: {kind}, walltime: '01:30:00'").walltime == "01:30:00"
    if BATCH[kind][1].endswith("10:00:00"):
        assert "not 36000; YAML takes it for a number unless it is quoted" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("type: CobaltProvider", "provider.type: CobaltProvider was removed from Parsl"),
        ("type: SlurmProvider, overrides: x", "overrides: was removed from Parsl; see scheduler"),
        ("type: SlurmProvider, walltime: 1-00:00:00", "walltime: must be HH:MM:SS"),
        ("type: SlurmProvider, walltime: UNLIMITED", "walltime: must be HH:MM:SS"),
        ("type: SlurmProvider, walltime: '30'", "walltime: must be HH:MM:SS"),
        ("type: SlurmProvider, walltime: '00:00:59'", "walltime: must be HH:MM:SS, from a minute"),
        ("type: SlurmProvider, walltime: null", "from a minute, not None"),
        ("type: SlurmProvider, clusters: a;id", "clusters: must be a name, not 'a;id'"),
        ("type: SlurmProvider, partition: p --time=0", "partition: must be one word, or quoted"),
        ("type: SlurmProvider, partition: 'p # --time=0'", "partition: must be one word"),
        ("type: SlurmProvider, qos: 'a b'", "qos: must be one word"),
        ("type: SlurmProvider, gres: 'gpu:1\"'", "gres: must be one word"),
        ("type: LSFProvider, project: a -q b", "project: must be one word"),
        ("type: PBSProProvider, select_options: mem=1gb -q x", "select_options: must be one word"),
        ("type: KubernetesProvider, image: x, group_id: 7", "group_id: must be a number, quoted"),
        ("type: KubernetesProvider, image: x, user_id: alice", "user_id: must be a number, quoted"),
        ("type: KubernetesProvider, image: x, user_id: '7'", "user_id: Parsl heeds user_id and"),
        ("type: SlurmProvider, mem_per_node: -1", "mem_per_node: must be a number from 0"),
        ("type: SlurmProvider, status_batch_size: 0", "must be a number from 1"),
        ("type: SlurmProvider, regex_job_id: '('", "regex_job_id: is no regular expression"),
        ("type: SlurmProvider, regex_job_id: '7'", "with a group (?P<id>…)"),
        ("type: SlurmProvider, account: 7", "account: must be text, not 7"),
        ("type: PBSProProvider, queue: 'a; b'", "queue: must be a name, not 'a; b'"),
        ("type: TorqueProvider, account: $(x)", "account: must be a name"),
        ("type: GridEngineProvider, queue: 7", "queue: must be text, not 7"),
        ('type: SlurmProvider, partition: "a\\nb"', "partition: must be a single line"),
        ("type: PBSProProvider, cpus_per_node: many", "cpus_per_node: must be an integer from 1"),
        ("type: PBSProProvider, select_options: [x]", "select_options: must be text"),
        ("type: LSFProvider, cores_per_block: x", "cores_per_block: must be an integer from 1"),
        ("type: LSFProvider, request_by_nodes: 1", "request_by_nodes: must be true or false"),
        ("type: LSFProvider, request_by_nodes: false", "Need to specify cores_per_block"),
        ("type: SlurmProvider, scheduler_options: --gres=x", "begin it with '#SBATCH'"),
        ("type: GridEngineProvider, scheduler_options: -pe mpi 2", "begin it with '#$'"),
    ],
)
def test_what_parsl_would_stumble_over_is_refused(text: str, told: str):
    assert told in refused(text)


def test_a_constraint_may_have_spaces_within_quotes():
    provider = made("type: SlurmProvider, clusters: 'a,b', constraint: '\"a100 & nvlink\"'")
    assert '--constraint="a100 & nvlink"\n' in provider.scheduler_options


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_option_of_a_launcher_has_its_type(launcher: str):
    parameters = inspect.signature(getattr(parsl.launchers, launcher)).parameters
    for name, parameter in parameters.items():
        told = refused(f"type: SlurmProvider, launcher: {{type: {launcher}, {name}: [x]}}")
        must = "true or false" if parameter.annotation is bool else "text"
        assert told.startswith(f"engine.provider.launcher.{name}: must be {must}, not ['x']")


@pytest.mark.parametrize("kind", PACKAGED)
def test_a_missing_package_is_named_with_the_command_which_installs_it(kind: str):
    package, options = PACKAGED[kind]
    told = refused(f"type: {kind}, {options}")
    assert told.startswith(f"engine.provider.type: {kind} needs Python packages")
    assert package in told
    assert f"pip --python {sys.executable} install 'parsl[" in told
    assert "no such option" in refused(f"type: {kind}, {options}, imag: x")


def test_persistent_volumes_become_what_parsl_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "kubernetes.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kube, "_kubernetes_enabled", True)
    for name in ("config", "client"):
        monkeypatch.setattr(kube, name, MagicMock(), raising=False)
    provider = made("type: KubernetesProvider, image: i, persistent_volumes: [[claim, /data]]")
    assert provider.persistent_volumes == [("claim", "/data")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("type: SlurmProvider, nodes_per_block: 2", "one of the 2 nodes"),
        ("type: PBSProProvider, launcher: {type: SrunLauncher}", "seldom works with PBSPro"),
        ("type: SlurmProvider, nodes_per_block: 2, launcher: {type: SrunLauncher}", ""),
        ("type: LocalProvider, launcher: {type: SrunLauncher}", ""),
        (
            "type: GridEngineProvider, nodes_per_block: 2, launcher: {type: MpiRunLauncher}",
            "#$ -pe NAME SLOTS",
        ),
    ],
)
def test_a_launcher_which_does_not_suit_is_told(
    text: str, told: str, caplog: pytest.LogCaptureFixture
):
    made(text)
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


class Noted:
    def note(self, job_id: str) -> None:
        assert job_id

    def forget(self, job_id: str) -> None: ...


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("kind", BATCH)
def test_what_is_submitted_is_a_script_with_the_gate_and_the_command(
    kind: str, launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake = tmp_path / "bin" / BATCH[kind][0]
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITTED", str(tmp_path / "submitted"))
    options = {"type": kind, "scheduler_options": "#marked $HOME", "worker_init": "echo 'a b'"}
    prepend = {"prepend": "env A=b"} if launcher == "WrappedLauncher" else {}
    provider = provider_of({**options, "launcher": {"type": launcher, **prepend}})
    provider.script_dir = str(tmp_path)
    command = f"{pool_command()} --block_id=0 -a 'x y'"
    gate = JobGate(provider, Noted(), tmp_path, "ours")  # type: ignore[arg-type]  # all that it asks
    assert str(gate.submit(command, 1, "parsl.block-0")).startswith("7")
    script = (tmp_path / "submitted").read_text()
    assert "\n#marked $HOME\n" in script
    if kind == "CondorProvider":
        (path,) = tmp_path.glob("*.script")
        script = path.read_text()
    assert command in script
    assert script.index(".gate") < script.index("echo 'a b'") < script.index(command)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
