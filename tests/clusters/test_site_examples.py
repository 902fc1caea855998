# SPDX-License-Identifier: Apache-2.0
"""An example of a site, on a cluster of that kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from endpoint.harness import Harness
from endpoint.test_user_endpoint import value
from support import slurm

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("cluster")]

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/slurm-partitions"


def about_the_job() -> tuple[str, str]:
    import os

    return os.environ["SLURM_JOB_PARTITION"], os.environ["SLURM_JOB_ACCOUNT"]


def test_the_one_for_partitions_runs_jobs(harness: Harness):
    variables = {"partition": "debug", "account": "physics-17", "workers_per_node": 1}
    harness.start(
        (EXAMPLE / "user_config_template.yaml.j2").read_text(),
        schema=json.loads((EXAMPLE / "user_config_schema.json").read_text()),
        user_opts=variables,
    )
    assert value(harness, harness.submit(about_the_job)) == ("debug", "physics-17")
    assert slurm.jobs("%l") == ["30:00"]
    harness.tell({"type": "stop"})
    assert harness.exit_status() == 0
    harness.wait_for(lambda: not slurm.jobs(), 10)
