# SPDX-License-Identifier: Apache-2.0
"""What test hosts cannot show: a home on a real NFS server, a clock which is really set, and more.

The login node is a virtual machine, in which all is 10 to 20 times slower than elsewhere.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from long.login_machine import ENDPOINT, EXPORTED, WATCHDOG, lines, login_machine
from support.waiting import until
from system.site import ENDPOINT_MEMORY, MIB

THREADS = "ThreadPoolEngine"
PROCESSES = "ProcessPoolEngine"
TASKS = range(20)
MINUTE = 60

pytestmark = pytest.mark.timeout(20 * MINUTE)


@pytest.fixture(scope="module")
def login():
    began = time.monotonic()
    with login_machine("machine") as place:
        print(f"the site is ready after {time.monotonic() - began:.0f} s")
        yield place


def work(number, seconds):
    import os
    import time

    def note(name):
        with open(os.path.expanduser(f"~/{name}"), "a") as file:
            file.write(f"{number}\n")

    note("begun")
    time.sleep(seconds)
    note("done")
    return number


def who():
    import os

    return os.getpid()


def forget(login):
    login.machine.run("rm", "-f", f"{EXPORTED}/begun", f"{EXPORTED}/done")


def values(outcomes):
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [outcome.value for outcome in outcomes]


def test_all_tasks_end_after_the_power_was_cut(login):
    machine = login.machine
    machine.run("systemctl", "enable", f"globus-compute-endpoint@{ENDPOINT}")
    forget(login)

    def counts():
        return [len(lines(machine, f"{EXPORTED}/{name}")) for name in ("done", "begun")]

    def both_threads_are_busy():
        done, begun = counts()
        return 2 <= done == begun - 2

    with ThreadPoolExecutor(1) as pool:
        calls = [(work, (number, 15)) for number in TASKS]
        queued = pool.submit(login.alice.outcomes, *calls, engine=THREADS)
        until(both_threads_are_busy, 5 * MINUTE)
        time.sleep(2)  # what is promised of a start counts from some milliseconds after it
        machine.down(crash=True)
        began = time.monotonic()
        machine.up()
        done, begun = counts()
        print(f"up after {time.monotonic() - began:.0f} s; {done} had ended, {begun} begun")
        outcomes = queued.result()
    assert len(outcomes) == len(TASKS)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert len(errors) <= 2, errors  # what the two threads had begun
    assert all("TaskInterrupted" in error and "restarted" in error for error in errors), errors
    ran = lines(machine, f"{EXPORTED}/begun")
    assert len(ran) == len(set(ran)), "none ran twice"
    ended = {outcome.value for outcome in outcomes if not outcome.error}
    assert ended == set(map(int, lines(machine, f"{EXPORTED}/done")))


def test_tasks_outlive_a_minute_without_the_server_of_their_home(login):
    machine = login.machine
    assert "nfs4" in machine.run("findmnt", "-no", "FSTYPE,OPTIONS", "/home/alice").stdout
    assert "Permission denied" in machine.run("ls", "/home/alice", check=False).stderr
    forget(login)
    units = login.units()
    with ThreadPoolExecutor(2) as pool:
        calls = [(work, (number, 3)) for number in TASKS]
        queued = pool.submit(login.alice.outcomes, *calls, engine=THREADS)
        until(lambda: len(lines(machine, f"{EXPORTED}/done")) >= 2, 3 * MINUTE)
        machine.run("systemctl", "stop", "nfs-server")
        went = time.monotonic()
        done = len(lines(machine, f"{EXPORTED}/done"))
        assert done < len(TASKS)
        # Meanwhile: another user's first task of all, and the administrator's command.
        assert login.bob.call(who, engine=THREADS)
        assert login.bob.call(who, engine=PROCESSES)
        machine.run("globus-compute-endpoint", "list")
        time.sleep(max(0, MINUTE - (time.monotonic() - went)))
        assert len(lines(machine, f"{EXPORTED}/done")) == done
        print(f"{done} of {len(TASKS)} tasks had ended; away for {time.monotonic() - went:.0f} s")
        machine.run("systemctl", "start", "nfs-server")
        assert values(queued.result()) == list(TASKS)
    assert sorted(map(int, lines(machine, f"{EXPORTED}/done"))) == list(TASKS)
    assert login.units() == units


@pytest.mark.parametrize("step", ["+1 hour", "-1 hour"])
def test_a_clock_which_is_set_stops_nothing(login, step):
    machine = login.machine
    forget(login)
    units = login.units()
    with ThreadPoolExecutor(1) as pool:
        calls = [(work, (number, 3)) for number in TASKS]
        queued = pool.submit(login.alice.outcomes, *calls, engine=THREADS)
        until(lambda: lines(machine, f"{EXPORTED}/done"), 3 * MINUTE)
        machine.run("date", "--set", step)
        assert len(lines(machine, f"{EXPORTED}/done")) < len(TASKS)
        assert values(queued.result()) == list(TASKS)
    assert sorted(map(int, lines(machine, f"{EXPORTED}/done"))) == list(TASKS)
    time.sleep(1.3 * WATCHDOG)
    assert login.units() == units
    assert login.alice.call(who, engine=THREADS)
    assert not machine.journal("_PID=1", "--grep", "Watchdog timeout")


def eat(mebibytes):
    kept = [b"x" * (1 << 20) for _ in range(mebibytes)]
    return len(kept)


def test_a_memory_limit_is_named_with_control_groups_of_version_2_alone(login):
    kind = login.machine.run("stat", "--file-system", "--format=%T", "/sys/fs/cgroup").stdout
    assert kind == "cgroup2fs\n"
    limit = ENDPOINT_MEMORY // MIB
    error = login.bob.failure(eat, limit + 64, engine=THREADS)
    assert f"ran out of memory: the limit of the user endpoint (MemoryMax={limit}M)" in error
    assert login.bob.call(who, engine=THREADS)
