# SPDX-License-Identifier: Apache-2.0
"""``engine:``, checked down to what Parsl takes, each mistake told with file, key and line."""

from __future__ import annotations

import inspect
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import parsl.addresses
import pytest
import yaml
from globus_compute_sdk.serialize import concretes
from parsl.executors import HighThroughputExecutor

from globus_compute_endpoint.config.loading import load_yaml
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
from globus_compute_endpoint.engines.htex_options import REFUSED, executor_factory
from globus_compute_endpoint.engines.thread_pool import ThreadPoolEngine
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.user_endpoint.configuration import checked

TREE = Path(__file__).parents[2]
SDK = "globus_compute_sdk.serialize"

# What each option of HTEX can be set to, and what becomes of it.
PASSED: dict[str, tuple[Any, Any]] = {
    "launch_cmd": ("process_worker_pool.py {debug}", "process_worker_pool.py {debug}"),
    "interchange_launch_cmd": (["interchange.py"], ["interchange.py"]),
    "address": ("192.0.2.7", "192.0.2.7"),
    "loopback_address": ("127.0.0.2", "127.0.0.2"),
    "worker_port": (50123, 50123),
    "worker_port_range": ([50000, 50100], (50000, 50100)),
    "interchange_port_range": ([51000, 51100], (51000, 51100)),
    "worker_debug": (True, True),
    "cores_per_worker": (0.5, 0.5),
    "mem_per_worker": (1.5, 1.5),
    "max_workers_per_node": (7, 7),
    "cpu_affinity": ("block", "block"),
    "available_accelerators": (["0", "1"], ["0", "1"]),
    "prefetch_capacity": (3, 3),
    "heartbeat_threshold": (60, 60),
    "heartbeat_period": (6, 6),
    "drain_period": (600, 600),
    "poll_period": (20, 20),
    "address_probe_timeout": (4, 4),
    "worker_logdir_root": ("/scratch/logs", "/scratch/logs"),
    "encrypted": (False, False),
}
# What is ours to set, and why.
OURS = {
    "label": "ours to name, and never seen",
    "provider": "made of the mapping `provider`",
    "working_dir": "an option of all our engines: where tasks run",
    "manager_selector": "made of the mapping `manager_selector`: see below",
}


def check(text: str) -> UserEndpointConfig:
    return checked(load_yaml(text, "config.yaml"), "config.yaml")


def refused(text: str) -> str:
    with pytest.raises(Problem) as caught:
        check(text)
    assert caught.value.exit_status is ExitStatus.CONFIGURATION
    return caught.value.message


def executor(engine: dict[str, Any]) -> Any:
    config = check(yaml.safe_dump({"engine": engine})).engine
    return executor_factory(config)()  # type: ignore[arg-type]  # the default type


@pytest.mark.parametrize("option", inspect.signature(HighThroughputExecutor).parameters)
def test_each_option_of_htex_is_passed_set_by_us_or_refused_with_a_reason(option: str):
    assert (option in PASSED) + (option in OURS) + (option in REFUSED) == 1, "new in Parsl?"
    if option in PASSED:
        given, wanted = PASSED[option]
        assert getattr(executor({option: given}), option) == wanted
    if option in REFUSED:
        message = refused(f"engine:\n  {option}: null\n")
        assert f"config.yaml: engine.{option} (line 2): cannot be set here: " in message


def test_mappings_with_a_type_become_parsls_objects():
    made = executor(
        {
            "manager_selector": {"type": "BlockIdManagerSelector"},
            "provider": {
                "type": "SlurmProvider",
                "partition": "debug",
                "worker_init": None,
                "launcher": {"type": "SrunLauncher", "overrides": "-l"},
            },
        }
    )
    assert type(made.manager_selector).__name__ == "BlockIdManagerSelector"
    assert made.provider.partition == "debug"
    assert made.provider.worker_init.strip() == ""
    assert made.provider.launcher.overrides == "-l"
    assert made.heartbeat_threshold == 120  # a cluster's network: Parsl's own
    assert made.encrypted is True


def test_addresses_are_text_or_found_by_parsls_functions(monkeypatch: pytest.MonkeyPatch):
    assert executor({}).address == "127.0.0.1"
    assert executor({"address": "login.example"}).address == "login.example"
    by_interface = {"type": "address_by_interface", "ifname": "lo"}
    assert executor({"address": by_interface}).address == "127.0.0.1"
    monkeypatch.setattr(parsl.addresses, "address_by_query", lambda timeout: f"within {timeout}")
    by_query = {"type": "address_by_query", "timeout": 5}
    assert executor({"address": by_query}).address == "within 5"
    by_hostname = {"type": "address_by_hostname"}
    assert executor({"address": by_hostname}).address == socket.gethostbyname(os.uname().nodename)
    assert executor({"address": {"type": "get_any_address"}}).address
    told = refused("engine:\n  address:\n    type: address_by_magic\n")
    for name in dir(parsl.addresses):
        offered = name.startswith("address_by_") or name == "get_any_address"
        assert (f" {name}" in told) == offered


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  max_workers_per_nod: 1", "engine.max_workers_per_nod (line 2): no such option (did"),
        ("  max_workers_per_node: many", "engine.max_workers_per_node (line 2): Parsl does not"),
        (
            "  provider:\n    type: SlurmProvidr",
            "engine.provider.type (line 3): there is no 'SlurmProvidr' (did you mean SlurmProv",
        ),
        ("  provider: {partition: x}", "engine.provider.partition (line 2): no such option"),
        ("  provider:\n    max_blocks: many", "provider.max_blocks (line 3): must be an integer"),
        ("  provider:\n    max_blocks: 0", "provider.max_blocks (line 3): must be an integer"),
        ("  provider:\n    min_blocks: 2", "provider.min_blocks (line 3): is above max_blocks"),
        ("  provider:\n    parallelism: 0", "provider.parallelism (line 3): must be a number"),
        ("  provider:\n    worker_init: [x]", "provider.worker_init (line 3): must be text"),
        (
            "  provider:\n    type: LocalProvider\n    launcher:\n      type: SrunLauncer",
            "engine.provider.launcher.type (line 5): there is no 'SrunLauncer' (did you mean Sr",
        ),
        (
            "  provider:\n    launcher:\n      type: SrunLauncher\n      overide: -l",
            "engine.provider.launcher.overide (line 5): no such option (did you mean overrides?)",
        ),
        ("  provider:\n    launcher: {overrides: -l}", "provider.launcher.type (line 3): it is m"),
        (
            "  address:\n    type: address_by_interface\n    ifnam: lo",
            "engine.address.ifnam (line 4): no such option (did you mean ifname?)",
        ),
        ("  address: {type: address_by_interface, ifname: nope0}", "engine.address (line 2): "),
        ("  manager_selector: {type: os.system}", "engine.manager_selector.type (line 2): there"),
        (
            "  job_status_kwargs:\n    max_idle: 3",
            "engine.job_status_kwargs.max_idle (line 3): no such option (did you mean max_idletim",
        ),
        ("  job_status_kwargs: {strategy_period: 0}", "job_status_kwargs.strategy_period (line 2)"),
        ("  type: ThreadPoolEngin", "engine.type (line 2): there is no ThreadPoolEngin (did you"),
        (
            "  type: ThreadPoolEngine\n  max_worker: 1",
            "engine.max_worker (line 3): no such option (did you mean max_workers?)",
        ),
        (
            "  type: ThreadPoolEngine\n  run_in_sandbox: true",
            "engine.run_in_sandbox (line 3): ThreadPoolEngine cannot offer it",
        ),
        ("  max_retries_on_system_failure: -1", "engine.max_retries_on_system_failure (line 2)"),
        ("  max_workers_per_node: '4'", "Parsl does not take it: must be int or null, not '4'"),
    ],
)
def test_a_wrong_option_is_told_with_file_key_and_line(text: str, told: str):
    message = refused(f"engine:\n{text}\n")
    assert message.startswith("config.yaml: ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "max_workers_per_node: 0",
        "max_workers_per_node: true",
        "prefetch_capacity: -1",
        "drain_period: 0",
        "poll_period: 0",
        "cores_per_worker: 0",
        "mem_per_worker: .inf",
        "cpu_affinity: blok",
        "cpu_affinity: 'list:0;id'",
        "available_accelerators: '0,1'",
        "available_accelerators: [0, 1]",
        "available_accelerators: [$(id)]",
        "available_accelerators: -1",
        "worker_port_range: [50100, 50000]",
        "heartbeat_threshold: 5",  # LocalProvider's period
        "label: a; b",
        "label: ../elsewhere",
        "address: $(id)",
        "worker_logdir_root: /scratch/my logs",
        "manager_selector: RandomManagerSelector",
    ],
)
def test_what_a_block_would_fail_with_or_run_no_task_with_is_refused(text: str):
    option = text.partition(":")[0]
    assert f"config.yaml: engine.{option} (line 2): must be" in refused(f"engine:\n  {text}\n")


def test_braces_of_a_launch_command_are_parsls():
    told = refused("engine:\n  launch_cmd: pool {max_workers} ${HOME}\n")
    assert "engine.launch_cmd (line 2): Parsl has no {max_workers} (did you mean max_w" in told
    assert "braces of the command's own are doubled" in refused("engine: {launch_cmd: 'pool }'}")
    assert executor({"launch_cmd": "pool ${{HOME}} {block_id}"})


@pytest.mark.parametrize(
    ("worker", "node"),
    [("cores_per_worker: 4", "cores_per_node: 2"), ("mem_per_worker: 0.5", "mem_per_node: 0")],
)
def test_a_node_without_room_for_a_worker_is_told(worker: str, node: str):
    told = refused(f"engine:\n  {worker}\n  provider:\n    type: SlurmProvider\n    {node}\n")
    assert "_per_worker (line 2): is above provider." in told
    roomy = f"{{{worker}, provider: {{type: SlurmProvider, {node[:-1]}4}}}}"
    assert executor(yaml.safe_load(roomy)).workers_per_node >= 1


def test_start_names_them_before_anything_is_registered(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    config = tmp_path / "mine" / "config.yaml"
    config.write_text("engine:\n  provider:\n    type: LocalProvidr\n")
    done = subprocess.run(
        [sys.executable, "-m", "globus_compute_endpoint", "-c", str(tmp_path), "start", "mine"],
        env={**os.environ, "PYTHONPATH": str(TREE / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    wanted = f"Error: {config}: engine.provider.type (line 3): there is no 'LocalProvidr' (did you"
    assert wanted in done.stderr
    assert not (tmp_path / "mine" / "endpoint.json").exists()


@pytest.mark.parametrize("text", ["", "engine:", "engine: {}", "engine: {max_workers_per_node: 1}"])
def test_the_default_engine_is_globus_compute_engine(text: str):
    config = check(text).engine
    assert config.type == "GlobusComputeEngine"
    assert config.max_retries_on_system_failure == 0
    assert config.job_status_kwargs.max_idletime == 120
    assert config.job_status_kwargs.strategy_period == 5
    assert GlobusComputeEngine(config).slots >= 1


def test_the_deprecated_engine_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        config = check("engine:\n  type: HighThroughputEngine\n  max_workers_per_node: 3\n")
    assert config.engine.type == "GlobusComputeEngine"
    assert "HighThroughputEngine is deprecated" in caplog.text
    assert "config.yaml: engine.type" in caplog.text


@pytest.mark.parametrize("engine", ["ThreadPoolEngine", "ProcessPoolEngine", "GlobusComputeEngine"])
@pytest.mark.parametrize(
    "names",
    [
        [f"{SDK}.CombinedCode", f"{SDK}.JSONData"],
        ["globus_compute_sdk.*Code", "globus_compute_sdk.*Data"],
        ["globus_compute_sdk.*Code", f"{SDK}.JSONData"],
        [f"{SDK}.concretes.DillCode", "globus_compute_sdk.*Data"],
        [f"{SDK}.{each.__name__}" for each in concretes.SELECTABLE_STRATEGIES],
    ],
)
def test_allowlists_of_each_form(engine: str, names: list[str]):
    text = yaml.safe_dump({"engine": {"type": engine, "allowed_serializers": names}})
    assert check(text).engine.allowed_serializers == tuple(names)


_INCOMPLETE = "Deserialization allowlists must contain at least one code and one data"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (f"[{SDK}.DillCodeSource]", f"{_INCOMPLETE} deserializer/wildcard (got: ['{SDK}.DillCode"),
        ("['globus_compute_sdk.*Data']", f"{_INCOMPLETE} deserializer/wildcard (got: ['globus_c"),
        ("[]", f"{_INCOMPLETE} deserializer/wildcard (got: [])"),
        (f"['globus_compute_sdk.*Code', {SDK}.DillCode, {SDK}.JSONData]", "Cannot mix '"),
        (f"['globus_compute_sdk.*Data', {SDK}.DillCode, {SDK}.JSONData]", "Cannot mix '"),
        (f"['{SDK}.*', {SDK}.JSONData]", f"Invalid strategy-like '{SDK}.*'"),
        (f"['globus_compute_sdk.*', {SDK}.JSONData]", "Invalid strategy-like"),
        (f"[os.system, {SDK}.JSONData]", "Invalid strategy-like 'os.system'"),
        (f"[DillCode, {SDK}.JSONData]", "Invalid strategy-like 'DillCode'"),
        (f"[{SDK}.concretes.PickleCode, {SDK}.JSONData]", "PickleCode is not a known"),
        ("JSONData", "valid tuple"),
    ],
)
def test_allowlists_which_are_refused(names: str, told: str):
    message = refused(f"engine:\n  allowed_serializers: {names}\n")
    assert "config.yaml: engine.allowed_serializers" in message
    assert "(line 2): " in message
    assert told in message


def test_a_directory_may_begin_with_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/alice")
    config = check("engine: {type: ThreadPoolEngine, working_dir: ~/tasks}\n").engine
    assert config.working_dir == Path("/home/alice/tasks")
    assert ThreadPoolEngine(2, working_dir=config.working_dir).slots == 2
