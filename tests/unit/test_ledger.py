# SPDX-License-Identifier: Apache-2.0
"""No task is run twice because a connection was lost."""

from uuid import uuid4

from globus_compute_endpoint.engines.base import TaskRequest
from globus_compute_endpoint.user_endpoint.heartbeat import IdleWatch
from globus_compute_endpoint.user_endpoint.ledger import MemoryLedger


class Delivered:
    def __init__(self) -> None:
        self.acks = 0

    def ack(self) -> None:
        self.acks += 1


def test_a_task_is_acknowledged_when_its_result_is_confirmed():
    ran: list[TaskRequest] = []
    ledger, delivery = MemoryLedger(), Delivered()
    task = TaskRequest(str(uuid4()), b"", 0)
    ledger.admit(task, delivery, ran.append)  # type: ignore[arg-type]  # only ack is used
    published: list[str] = []
    ledger.store(task.task_id, b"r", lambda task_id, _: published.append(task_id))
    assert (ran, published, delivery.acks) == ([task], [task.task_id], 0)
    assert ledger.outstanding == 1
    ledger.settle(task.task_id)
    assert (delivery.acks, ledger.outstanding) == (1, 0)


def test_a_redelivery_is_not_run_again_and_takes_the_acknowledgement():
    ledger, first, second, third = MemoryLedger(), Delivered(), Delivered(), Delivered()
    task = TaskRequest(str(uuid4()), b"", 0)
    ran: list[TaskRequest] = []
    ledger.admit(task, first, ran.append)  # type: ignore[arg-type]  # only ack is used
    ledger.admit(task, second, ran.append)  # type: ignore[arg-type]  # only ack is used
    ledger.settle(task.task_id)
    ledger.admit(task, third, ran.append)  # type: ignore[arg-type]  # only ack is used
    assert ran == [task]
    assert (first.acks, second.acks, third.acks) == (0, 1, 1)


def test_idle_soft_counts_from_the_last_movement():
    watch = IdleWatch(soft=2, hard=4)
    assert watch.beat(0, 0) is None
    assert watch.beat(0, 0) is None
    assert watch.beat(1, 1) is None
    assert watch.beat(0, 2) is None
    assert watch.beat(0, 2) is None
    assert watch.beat(0, 2) == "idle for 2 heartbeats"


def test_idle_hard_ends_even_with_tasks_but_only_with_soft():
    watch = IdleWatch(soft=1, hard=3)
    assert [watch.beat(5, 0) for _ in range(3)] == [None, None, None]
    assert "nothing moved" in str(watch.beat(5, 0))
    never = IdleWatch(soft=0, hard=1)
    assert [never.beat(0, 0) for _ in range(9)] == [None] * 9
