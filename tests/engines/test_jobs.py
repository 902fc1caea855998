# SPDX-License-Identifier: Apache-2.0
"""What schedulers say, as they say it."""

import pytest

from globus_compute_endpoint.engines.batch_jobs import is_away

PARSL = "Failed to start block 3: Cannot launch job x.block-3.1: Could not read job ID from submit"


@pytest.mark.parametrize(
    ("said", "away"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        (
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            True,
        ),
        ("qsub: cannot connect to server pbs (errno=111)", True),
        ("Command 'sbatch x' timed out after 10 seconds", True),
        ("sbatch: error: invalid partition specified: debgu", False),
        ("sbatch: error: Batch job submission failed: Invalid account", False),
        ("sbatch: command not found", False),
    ],
)
def test_a_scheduler_which_is_away_is_not_a_wrong_option(said: str, away: bool):
    assert is_away(f"{PARSL}; recode=1, stdout=, stderr={said}") is away


def test_a_block_without_a_message():
    assert not is_away(None)
