# SPDX-License-Identifier: Apache-2.0
"""What of AMQP can be told without a broker; the rest is in tests/endpoint."""

import pytest
from pydantic import SecretStr, ValidationError

from globus_compute_endpoint.amqp import QueueInfo, parameters
from globus_compute_endpoint.amqp.queue_info import describe
from globus_compute_endpoint.backoff import Backoff


def test_backoff_grows_to_its_maximum_and_begins_anew():
    backoff = Backoff(initial=1, maximum=8)
    delays = [backoff.next() for _ in range(6)]
    for delay, whole in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= delay <= whole
    backoff.reset()
    assert backoff.next() <= 1


def test_passwords_are_not_shown():
    info = QueueInfo(connection_url=SecretStr("amqps://me:s3cret@mq.example:5671/gc"), queue="q")
    assert "s3cret" not in f"{info!r} {info} {info.model_dump()}"
    assert describe(info.connection_url) == "amqps://mq.example:5671/gc"
    assert describe(info.connection_url, 443) == "amqps://mq.example:443/gc"


@pytest.mark.parametrize("url", ["http://mq.example/", "amqp://", "amqp://mq:notaport/", "mq"])
def test_what_is_no_amqp_url_is_refused_without_showing_it(url: str):
    with pytest.raises(ValidationError):
        QueueInfo(connection_url=SecretStr(url), queue="q")


def test_amqp_port_replaces_the_urls():
    url = SecretStr("amqp://me:pw@mq.example:5672/%2F")
    assert parameters(url, name="x").port == 5672
    assert parameters(url, name="x", port=443).port == 443
