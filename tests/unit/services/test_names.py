# SPDX-License-Identifier: Apache-2.0
import re
from uuid import UUID, uuid4

import pytest

from globus_compute_services.broker import names

ONE, OTHER = uuid4(), uuid4()


def test_an_endpoint_reads_its_own_queues_only() -> None:
    rights = names.endpoint_rights(ONE, manager=False)
    assert re.search(rights.read, names.task_queue(ONE))
    for queue in (
        names.command_queue(ONE),
        names.task_queue(OTHER),
        names.task_queue(ONE) + "x",
        "x" + names.task_queue(ONE),
        names.RESULTS_QUEUE,
    ):
        assert not re.search(rights.read, queue)


def test_a_manager_also_reads_its_commands() -> None:
    rights = names.endpoint_rights(ONE, manager=True)
    assert re.search(rights.read, names.command_queue(ONE))
    assert not re.search(rights.read, names.command_queue(OTHER))


def test_an_endpoint_writes_as_itself_only() -> None:
    rights = names.endpoint_rights(ONE, manager=True)
    assert not re.search(rights.write, "")
    assert not re.search(rights.write, "amq.topic")
    topics = dict(rights.topics)
    assert set(topics) == {names.RESULTS, names.HEARTBEATS}
    assert re.search(topics[names.RESULTS], names.results_key(ONE))
    assert not re.search(topics[names.RESULTS], names.results_key(OTHER))
    assert not re.search(topics[names.HEARTBEATS], names.results_key(ONE))
    assert not re.search(rights.configure, "anything")


def test_a_researcher_reads_their_own_results_only() -> None:
    rights = names.result_rights(ONE)
    group = uuid4()
    assert re.search(rights.read, names.result_queue(ONE, group))
    assert not re.search(rights.read, names.result_queue(OTHER, group))
    assert not re.search(rights.read, names.task_queue(ONE))
    assert not re.search(rights.write, names.RESULTS)


@pytest.mark.parametrize("key", ["", ".", "results", "x.results", f"{ONE}x.results"])
def test_keys_of_nobody(key: str) -> None:
    assert names.endpoint_of_key(key) is None


def test_whose_key_and_account_it_is() -> None:
    assert names.endpoint_of_key(names.results_key(ONE)) == ONE
    assert names.endpoint_of_account(names.endpoint_account(ONE)) == ONE
    assert names.endpoint_of_account(names.result_account(ONE, 1)) is None
    assert names.endpoint_of_account("globus-compute-services") is None


def test_names_fit_in_what_amqp_allows() -> None:
    longest = UUID(int=2**128 - 1)
    assert len(names.result_queue(longest, longest)) < 256
