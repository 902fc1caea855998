# SPDX-License-Identifier: Apache-2.0
"""AMQP on one asyncio loop: a connection that comes back, a consumer, a confirmed publisher."""

from .connection import ChannelUser, Connection, parameters
from .consumer import Consumer, Delivery
from .publisher import Publisher, Unroutable, publish_once
from .queue_info import QueueInfo, ResultQueueInfo

__all__ = [
    "ChannelUser",
    "Connection",
    "Consumer",
    "Delivery",
    "Publisher",
    "QueueInfo",
    "ResultQueueInfo",
    "Unroutable",
    "parameters",
    "publish_once",
]
