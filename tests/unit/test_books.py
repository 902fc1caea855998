# SPDX-License-Identifier: Apache-2.0
"""The fault suite's books, tried on forged ledgers: they do not close over what is wrong."""

from __future__ import annotations

import pytest

from system.faults.books import Books


def event(name, key="k", **what):
    return {"at": 1.0, "event": name, **({} if name == "delivered" else {"key": key}), **what}


SUBMITTED = event("submitted", deed="")
ASKED = event("submitted", deed="raise")
ACCEPTED = event("accepted", task="t")
SUCCEEDED = event("succeeded", value="k")
DELIVERED = event("delivered", task="t", again=False)
RUN = "k 17 1.0 login"


def failed(reason):
    return event("failed", reason=reason)


def balance(*events, runs=(RUN,), explained=()):
    books = Books()
    books.enter(events)
    books.enter_executions(runs)
    return books.balance(explained=explained)


GOOD = (SUBMITTED, ACCEPTED, DELIVERED, SUCCEEDED)


def test_a_task_that_went_well():
    closed = balance(*GOOD)
    assert closed.closed
    assert (closed.accepted, closed.succeeded, closed.failed) == (1, 1, {})


def test_what_was_not_accepted_need_not_end():
    refused = balance(SUBMITTED, event("unanswered", reason="no network"), runs=())
    assert refused.closed
    assert (refused.accepted, refused.unanswered) == (0, 1)


@pytest.mark.parametrize(
    ("name", "events", "runs"),
    [
        ("lost", (SUBMITTED, ACCEPTED), (RUN,)),
        ("duplicated", (*GOOD, DELIVERED), (RUN,)),
        ("duplicated", (SUBMITTED, DELIVERED, DELIVERED, ACCEPTED, SUCCEEDED), (RUN,)),
        ("duplicated", (*GOOD, SUCCEEDED), (RUN,)),
        ("run_twice", GOOD, (RUN, RUN)),
        ("run_twice", (SUBMITTED,), (RUN, RUN)),
        ("wrong", GOOD, ()),
        ("wrong", (SUBMITTED, ACCEPTED, event("succeeded", value="another")), (RUN,)),
        ("wrong", (SUBMITTED, ACCEPTED, failed("")), (RUN,)),
        ("wrong", (SUBMITTED, ACCEPTED, failed("k was asked to fail")), (RUN,)),
        ("wrong", (SUBMITTED, ACCEPTED, failed("TaskInterrupted: reboot")), (RUN,)),
        ("wrong", (ASKED, ACCEPTED, SUCCEEDED), (RUN,)),
        ("wrong", (ASKED, ACCEPTED, failed("k was asked to fail")), ()),
    ],
)
def test_books_do_not_close_over(name, events, runs):
    found = balance(*events, runs=runs)
    assert not found.closed
    assert getattr(found, name) == ["k"]


def test_a_delivery_which_the_broker_calls_repeated_is_no_duplicate():
    assert balance(*GOOD, event("delivered", task="t", again=True)).closed


def test_who_was_killed_may_have_sent_a_result_twice_but_none_ends_twice():
    assert balance(*GOOD, DELIVERED, explained=["sent again"]).closed
    assert not balance(*GOOD, SUCCEEDED, explained=["sent again"]).closed


def test_results_which_never_came_are_named():
    books = Books()
    books.enter([SUBMITTED, ACCEPTED, SUCCEEDED])
    assert books.undelivered() == ["k"]
    books.enter([DELIVERED])
    assert books.undelivered() == []


def test_failures_are_right_where_they_were_asked_for_or_are_explained():
    assert balance(ASKED, ACCEPTED, failed("ValueError: k was asked to fail")).closed
    told = failed("TaskInterrupted: it was killed by SIGKILL")
    assert balance(SUBMITTED, ACCEPTED, told, explained=["interrupted"]).closed
    assert not balance(SUBMITTED, ACCEPTED, told, explained=["worker lost"]).closed


def test_each_time_has_its_own_balance():
    books = Books()
    late = {**SUBMITTED, "at": 9.0, "key": "late"}
    books.enter([SUBMITTED, ACCEPTED, late, {**ACCEPTED, "key": "late", "task": "u"}])
    assert books.balance(until=5).lost == ["k"]
    assert books.balance(since=5).lost == ["late"]
    assert books.complaints(books.balance()) == ["lost: k, late"]
