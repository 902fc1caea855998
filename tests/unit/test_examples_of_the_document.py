# SPDX-License-Identifier: Apache-2.0
"""The configurations which the user's document shows are taken as they stand."""

from __future__ import annotations

import pytest

from globus_compute_endpoint.config.engines import GlobusComputeEngineConfig
from globus_compute_endpoint.config.loading import load_yaml, validate
from globus_compute_endpoint.config.template import render_user_config
from globus_compute_endpoint.config.user_endpoint import UserEndpointConfig
from globus_compute_endpoint.engines.factory import build

RETRIES = """\
amqp_port: 443
display_name: Retry_2_times
engine:
    type: GlobusComputeEngine
    max_retries_on_system_failure: 2  # Default=0
"""
SCALING = """\
engine:
    type: GlobusComputeEngine
    job_status_kwargs:
        max_idletime: 60.0      # Default = 120s
        strategy_period: 120.0  # Default = 5s
"""
WORKER_INIT = """\
engine:
  provider:
    type: LocalProvider
    worker_init: |
      conda activate my-conda-env  # or venv, or virtualenv, or ...
      source /some/other/config
"""
SCRIPTS = """\
endpoint_setup: |
  conda create -n my-conda-env
  conda activate my-conda-env
  pip install -r requirements.txt
endpoint_teardown: |
  conda remove -n my-conda-env --all
"""
SERIALIZERS = """\
engine:
   type: GlobusComputeEngine
   allowed_serializers:
      - globus_compute_sdk.serialize.CombinedCode
      - globus_compute_sdk.serialize.JSONData
"""
WILDCARDS = """\
engine:
   allowed_serializers:
      - globus_compute_sdk.*Code
      - globus_compute_sdk.*Data
"""
PORT = """\
amqp_port: 5671
display_name: My Endpoint
engine: {type: ThreadPoolEngine}
"""
DOCKER = """\
display_name: Docker
engine:
  type: GlobusComputeEngine
  container_type: docker
  container_uri: funcx/kube-endpoint:main-3.10
  container_cmd_options: -v /tmp:/tmp
  provider:
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
    type: LocalProvider
"""
CUSTOM = """\
display_name: Docker Custom
engine:
  type: GlobusComputeEngine
  container_type: custom
  container_cmd_options: docker run -v {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} funcx/kube-endpoint:main-3.10 {EXECUTOR_LAUNCH_CMD}
  provider:
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
    type: LocalProvider
"""  # noqa: E501  (as it stands)
TEMPLATE = """\
engine:
  type: GlobusComputeEngine
  provider:
    type: SlurmProvider
    partition: {{ PARTITION }}

    launcher:
        type: SrunLauncher

    account: {{ ACCOUNT_ID }}

idle_heartbeats_soft: 2
idle_heartbeats_hard: 4
"""


def load(text: str) -> UserEndpointConfig:
    return validate(UserEndpointConfig, load_yaml(text, "example"), "example")


@pytest.mark.parametrize(
    "text",
    [RETRIES, SCALING, WORKER_INIT, SCRIPTS, SERIALIZERS, WILDCARDS, PORT, DOCKER, CUSTOM],
)
def test_an_example_is_taken_and_makes_an_engine(text: str) -> None:
    build(load(text).engine)


def test_what_they_say_is_what_counts() -> None:
    retries = load(RETRIES)
    assert (retries.amqp_port, retries.display_name) == (443, "Retry_2_times")
    assert retries.engine.max_retries_on_system_failure == 2
    assert load("{}").engine.max_retries_on_system_failure == 0
    scaled, default = load(SCALING).engine, load("{}").engine
    assert isinstance(scaled, GlobusComputeEngineConfig)
    assert isinstance(default, GlobusComputeEngineConfig)
    told = scaled.job_status_kwargs
    assert (told.max_idletime, told.strategy_period) == (60, 120)
    told = default.job_status_kwargs
    assert (told.max_idletime, told.strategy_period) == (120, 5)
    assert load(PORT).amqp_port == 5671
    assert load("{}").amqp_port is None


def test_the_template_gets_the_researchers_variables() -> None:
    options = {"ACCOUNT_ID": "ABCD-1234", "PARTITION": "debug"}
    rendered = render_user_config(TEMPLATE, None, options, {}, {})
    config = load(rendered)
    assert isinstance(config.engine, GlobusComputeEngineConfig)
    provider = config.engine.provider
    assert (provider["partition"], provider["account"]) == ("debug", "ABCD-1234")
    assert (config.idle_heartbeats_soft, config.idle_heartbeats_hard) == (2, 4)
