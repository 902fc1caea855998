# SPDX-License-Identifier: Apache-2.0
"""How tasks get the nodes of their block."""

from __future__ import annotations

import pickle
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from globus_compute_endpoint.worker.nodes import NodeScheduler


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeScheduler:
    """A block of four nodes, two ranks each, as PBS would tell."""
    (tmp_path / "nodes").write_text("".join(f"{node}\n{node}\n" for node in "abcd"))
    monkeypatch.delenv("SLURM_NODELIST", raising=False)
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    return NodeScheduler(SimpleQueue(), SimpleQueue())


def ask(block: NodeScheduler, task_id: int, nodes: int) -> None:
    block.put_task({"task_id": task_id, "context": {"resource_spec": {"num_nodes": nodes}}})


def begun(block: NodeScheduler) -> dict[int, str]:
    """Return which nodes were given to the tasks that could begin since the last call."""
    found: dict[int, str] = {}
    queue: Any = block._tasks
    while not queue.empty():
        task = queue.get()
        found[task["task_id"]] = task["context"]["resource_spec"]["MPI_NODELIST"]
    return found


def end(block: NodeScheduler, task_id: int) -> None:
    packed = pickle.dumps({"type": "result", "task_id": task_id})
    block._results.put(packed)
    assert block.get_result() == packed


def test_nobody_is_overtaken(block: NodeScheduler):
    for task_id, nodes in enumerate((1, 2, 3, 1, 4)):
        ask(block, task_id, nodes)
    assert begun(block) == {0: "a", 1: "b,c"}  # d is free, but 3 is not the first to wait
    end(block, 0)
    assert begun(block) == {}
    end(block, 1)
    assert begun(block) == {2: "d,a,b", 3: "c"}
    end(block, 3)
    end(block, 2)
    assert begun(block) == {4: "c,d,a,b"}


def test_more_than_there_are_is_answered_and_the_rest_goes_on(block: NodeScheduler):
    ask(block, 0, 5)
    ask(block, 1, 4)
    assert begun(block) == {1: "a,b,c,d"}
    answer = pickle.loads(block.get_result() or b"")
    assert answer["task_id"] == 0
    assert b"the block has but 4 of its nodes" in answer["exception"]


def test_what_is_no_result_frees_nothing(block: NodeScheduler):
    ask(block, 0, 4)
    ask(block, 1, 1)
    assert list(begun(block)) == [0]
    block._results.put(pickle.dumps({"type": "monitoring", "payload": None}))
    assert block.get_result()
    assert begun(block) == {}
    with pytest.raises(Empty):
        block.get_result(block=False)


def test_a_block_which_does_not_know_its_nodes_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_NODELIST", "PBS_NODEFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match=r"does not know its nodes.*export one of them in worker"):
        NodeScheduler(SimpleQueue(), SimpleQueue())
