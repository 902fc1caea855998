# SPDX-License-Identifier: Apache-2.0
"""How the end of a user endpoint is told."""

import pytest

from globus_compute_endpoint.manager.ends import Evidence, judge

KILLED, EXITED_3 = 9, 3 << 8


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence("running", KILLED), "it was killed by SIGKILL"),
        (Evidence("running", KILLED, memory="that one"), "it ran out of memory: that one"),
        (Evidence("running", None, "oom-kill"), "it ran out of memory"),
        (Evidence("running", 40), "it was killed by signal 40"),
        (Evidence("running", EXITED_3), "its process exited with status 3"),
        (Evidence("running", None, "timeout"), "its time limit was reached (RuntimeMaxSec)"),
        (Evidence("running"), "its process ended"),
    ],
)
def test_an_end_out_of_order_has_a_reason(evidence: Evidence, reason: str) -> None:
    end = judge(evidence)
    assert not end.clean
    assert end.reason == reason
    assert end.problem
    assert end.problem.message == f"the user endpoint has died: {reason}"
    assert end.interruption
    assert end.interruption.startswith(f"{reason}; ")


@pytest.mark.parametrize("evidence", [Evidence("stopped"), Evidence("running", 0)])
def test_an_end_in_order_needs_none(evidence: Evidence) -> None:
    end = judge(evidence)
    assert end.clean
    assert end.reason is None
    assert end.interruption is None
    assert end.problem is None


def test_tasks_which_were_cut_short_learn_what_to_do_about_it() -> None:
    interruption = judge(Evidence("running", EXITED_3)).interruption
    assert interruption is not None
    assert "status 3; a function which calls os._exit" in interruption


def test_who_was_made_to_end_in_order_had_a_reason_too() -> None:
    end = judge(Evidence("stopped", 0, "timeout"))
    assert end.clean
    assert end.problem is None
    assert end.reason


def test_what_it_has_told_itself_is_not_told_again() -> None:
    end = judge(Evidence("failed", 70 << 8))
    assert end.told
    assert end.problem is None
