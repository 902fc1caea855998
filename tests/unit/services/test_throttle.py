# SPDX-License-Identifier: Apache-2.0
from globus_compute_services.auth.throttle import Throttle


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(throttle: Throttle, name: str, address: str, times: int) -> list[float]:
    return [throttle.begin(name, address) for _ in range(times)]


def test_five_failures_of_one_from_one_place_are_enough():
    clock = Clock()
    throttle = Throttle(clock)
    assert not any(fail(throttle, "alice", "10.0.0.1", 5))
    assert throttle.begin("alice", "10.0.0.1") == 900
    assert throttle.begin("alice", "10.0.0.2") == 0
    assert throttle.begin("bob", "10.0.0.1") == 0
    clock.now += 899
    assert throttle.begin("alice", "10.0.0.1") == 1
    clock.now += 1
    assert throttle.begin("alice", "10.0.0.1") == 0


def test_one_account_is_guarded_against_many_places():
    throttle = Throttle(Clock())
    for number in range(50):
        assert throttle.begin("alice", f"10.0.1.{number}") == 0
    assert throttle.begin("alice", "10.0.2.1") > 0


def test_many_accounts_are_guarded_against_one_place():
    throttle = Throttle(Clock())
    for number in range(50):
        assert throttle.begin(f"user{number}", "10.0.0.1") == 0
    assert throttle.begin("another", "10.0.0.1") > 0


def test_who_signs_in_is_not_counted():
    throttle = Throttle(Clock())
    for _ in range(200):
        assert throttle.begin("alice", "10.0.0.1") == 0
        throttle.succeeded("alice", "10.0.0.1")
    fail(throttle, "alice", "10.0.0.1", 4)
    throttle.succeeded("alice", "10.0.0.1")
    assert not any(fail(throttle, "alice", "10.0.0.1", 5))


def test_an_attempt_that_nobody_looked_at_is_not_counted():
    throttle = Throttle(Clock())
    for _ in range(200):
        assert throttle.begin("alice", "10.0.0.1") == 0
        throttle.not_tried("alice", "10.0.0.1")
    # but what failed before is not forgiven
    fail(throttle, "alice", "10.0.0.1", 4)
    assert throttle.begin("alice", "10.0.0.1") == 0
    throttle.not_tried("alice", "10.0.0.1")
    assert [wait > 0 for wait in fail(throttle, "alice", "10.0.0.1", 2)] == [False, True]


def test_a_network_of_ipv6_is_one_place():
    throttle = Throttle(Clock())
    for number in range(50):
        assert throttle.begin(f"user{number}", f"2001:db8:0:1::{number:x}") == 0
    assert throttle.begin("another", "2001:db8:0:1:ffff::1") > 0
    assert throttle.begin("another", "2001:db8:0:2::1") == 0
    # as a socket for both tells of IPv4
    for number in range(50):
        assert throttle.begin(f"user{number}", f"::ffff:10.0.0.{number}") == 0
    assert throttle.begin("another", "::ffff:10.0.0.99") == 0


def test_memory_is_bounded():
    throttle = Throttle(Clock())
    for number in range(30_000):
        throttle.begin(f"user{number}", f"address{number}")
    assert len(throttle._counts) <= 20_000
