# SPDX-License-Identifier: Apache-2.0
from globus_compute_endpoint.problem import Problem


def test_a_problem_is_one_line_with_its_hint() -> None:
    assert str(Problem("X", "it broke", "mend it")) == "it broke (mend it)"
    assert str(Problem("X", "it broke")) == "it broke"
