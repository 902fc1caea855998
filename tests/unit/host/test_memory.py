# SPDX-License-Identifier: Apache-2.0
"""OOM kills as both layouts of cgroups count them."""

from pathlib import Path

from globus_compute_endpoint.host.memory import OomWatch


def write(group: Path, **files: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("__", ".")).write_text(text)


def test_the_limit_which_was_reached_is_told_once_for_each_kill(tmp_path: Path):
    (tmp_path / "cgroup").write_text("0::/user.slice/endpoint.scope\n")
    slice_ = tmp_path / "root/user.slice"
    write(slice_, memory__events__local="oom 0\noom_kill 0\n", memory__max="1073741824\n")
    write(slice_ / "endpoint.scope", memory__events__local="oom 0\noom_kill 3\n", memory__max="max")
    watch = OomWatch(tmp_path / "cgroup", tmp_path / "root")
    assert watch.explain() is None
    write(slice_ / "endpoint.scope", memory__events__local="oom 0\noom_kill 5\n")
    write(slice_, memory__events__local="oom 1\noom_kill 0\n")
    told = watch.explain()
    assert told == "the memory limit of user.slice (1024 MiB) was reached"
    assert watch.explain() is not None
    assert watch.explain() is None


def test_the_layout_of_old(tmp_path: Path):
    (tmp_path / "cgroup").write_text("4:memory:/job\n1:name=systemd:/elsewhere\n0::/unified\n")
    group = tmp_path / "root/memory/job"
    files = {"memory__limit_in_bytes": "209715200\n"}
    write(group, memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", **files)
    watch = OomWatch(tmp_path / "cgroup", tmp_path / "root")
    write(group, memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert watch.explain() == "the memory limit of job (200 MiB) was reached"
    assert watch.explain() is None


def test_the_hosts_own_memory(tmp_path: Path):
    (tmp_path / "cgroup").write_text("0::/a.scope\n")
    group = tmp_path / "root/a.scope"
    write(group, memory__events="oom 0\noom_kill 0\n", memory__max="max\n")
    watch = OomWatch(tmp_path / "cgroup", tmp_path / "root")
    write(group, memory__events="oom 0\noom_kill 1\n")
    assert watch.explain() == "the memory of the host was used up"


def test_no_memory_controller(tmp_path: Path):
    (tmp_path / "cgroup").write_text("1:name=systemd:/\n")
    assert OomWatch(tmp_path / "cgroup", tmp_path / "root").explain() is None
