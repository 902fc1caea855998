# SPDX-License-Identifier: Apache-2.0
"""Resource specifications, which researchers write: each mistake is told before Parsl has it."""

from __future__ import annotations

from typing import Any

import pytest

from globus_compute_endpoint.engines.resources import BadSpecification, for_htex, for_mpi


def sizes(**given: Any) -> tuple[int, int, int]:
    made = for_mpi(given, nodes_per_block=4)
    assert all(type(each) is int for key, each in made.items() if key != "launcher_options")
    return made["num_nodes"], made["ranks_per_node"], made["num_ranks"]


def test_sizes_which_follow_from_the_others_are_filled_in():
    assert sizes(num_nodes=4) == (4, 1, 4)
    assert sizes(num_nodes=2, ranks_per_node=3) == (2, 3, 6)
    assert sizes(num_nodes=2, num_ranks=6) == (2, 3, 6)
    assert sizes(ranks_per_node=3, num_ranks=6) == (2, 3, 6)
    assert sizes(num_nodes=2, ranks_per_node=3, num_ranks=6) == (2, 3, 6)


def test_what_is_given_stays_as_it_is():
    given = {"num_nodes": 2, "launcher_options": "--cpu-bind=none -v"}
    assert for_mpi(given, 2)["launcher_options"] == "--cpu-bind=none -v"
    assert given == {"num_nodes": 2, "launcher_options": "--cpu-bind=none -v"}
    assert for_mpi({"num_nodes": 1}, 2)["launcher_options"] == ""  # and not the last task's


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, 'needs to know their size: set it, as in {"num_nodes": 2, "ranks_per_node": 4}'),
        ({"num_node": 2}, "there is no 'num_node' (did you mean num_nodes?); this endpoint takes"),
        ({"num_nodes": 1, "priority": 1}, "there is no 'priority'; this endpoint takes num_nodes,"),
        ({"ranks_per_node": 2}, "num_nodes is missing: set it to how many nodes the task needs"),
        ({"num_ranks": 2}, "num_nodes is missing"),
        ({"launcher_options": "-v"}, "num_nodes is missing"),
        ({"num_nodes": 5}, "num_nodes is 5, but a block of this endpoint has 4 nodes: ask for no"),
        ({"num_ranks": 10, "ranks_per_node": 2}, "num_nodes is 5, but a block"),
        (
            {"num_nodes": 2, "ranks_per_node": 2, "num_ranks": 5},
            "num_ranks is 5, but num_nodes times ranks_per_node is 2 × 2 = 4: correct one",
        ),
        ({"num_nodes": 2, "num_ranks": 5}, "num_ranks is 5, which num_nodes, 2, does not divide"),
        ({"ranks_per_node": 2, "num_ranks": 5}, "5, which ranks_per_node, 2, does not divide"),
        *(
            ({"num_nodes": 2, key: value}, f"{key} must be an integer from 1, not {shown}")
            for key in ("num_nodes", "ranks_per_node", "num_ranks")
            for value, shown in [
                (0, "0."),
                (-1, "-1."),
                (True, "True."),
                (2.0, "2.0."),
                ("2", "'2'."),
                (None, "None."),
                (float("nan"), "nan."),
                (10**4000, "1000"),
                ("2" * 99, "'2222"),
            ]
        ),
        *(
            ({"num_nodes": 2, "launcher_options": value}, "launcher_options must be one line of")
            for value in (None, 1, "-v\n", "-v\0", "\ud800", "-–v", "v" * 4097)
        ),
    ],
)
def test_mistakes_about_mpi(given: dict[str, Any], told: str):
    with pytest.raises(BadSpecification) as caught:
        for_mpi(given, nodes_per_block=4)
    text = str(caught.value)
    assert text.startswith("resource_specification: ")
    assert told in text
    assert len(text) < 300


def test_one_node_is_told_in_the_singular():
    with pytest.raises(BadSpecification, match="endpoint has 1 node: ask"):
        for_mpi({"num_nodes": 2}, nodes_per_block=1)


@pytest.mark.parametrize("given", [{}, {"priority": 3}, {"priority": -1.5}, {"priority": 10**400}])
def test_priorities(given: dict[str, Any]):
    assert for_htex(given) == given


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_nodes": 2}, "there is no 'num_nodes'; this endpoint takes priority. Change or rem"),
        ({"prio": 2}, "there is no 'prio' (did you mean priority?)"),
        *(
            ({"priority": value}, "priority must be a number, the lower the sooner, not ")
            for value in (None, "1", True, float("nan"))
        ),
    ],
)
def test_mistakes_about_priorities(given: dict[str, Any], told: str):
    with pytest.raises(BadSpecification) as caught:
        for_htex(given)
    assert told in str(caught.value)
