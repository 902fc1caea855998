# SPDX-License-Identifier: Apache-2.0
"""AMQP on one asyncio loop: a connection that comes back, a consumer, a confirmed publisher."""

from globus_compute_endpoint.amqp.connection import ChannelUser, Connection, parameters
from globus_compute_endpoint.amqp.consumer import Consumer, Delivery, acknowledge
from globus_compute_endpoint.amqp.publisher import Publisher, TooLarge, Unroutable, publish_once
from globus_compute_endpoint.amqp.queue_info import QueueInfo, ResultQueueInfo

__all__ = [
    "ChannelUser",
    "Connection",
    "Consumer",
    "Delivery",
    "Publisher",
    "QueueInfo",
    "ResultQueueInfo",
    "TooLarge",
    "Unroutable",
    "acknowledge",
    "parameters",
    "publish_once",
]
