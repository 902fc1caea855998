# SPDX-License-Identifier: Apache-2.0
"""What the web services tell about a queue. The URLs hold passwords: none may be logged."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

__all__ = [
    "PublishKwargs",
    "QueueInfo",
    "ResultQueueInfo",
    "UserEndpointQueues",
    "describe",
]


def describe(url: SecretStr, port: int | None = None) -> str:
    """Return host, port and virtual host of an AMQP URL, which may be shown.

    ``port`` is the one that is used in the place of the URL's.
    """
    parts = urlsplit(url.get_secret_value())
    port = port or parts.port
    shown = f":{port}" if port else ""
    return f"{parts.scheme}://{parts.hostname}{shown}{parts.path}"


class QueueInfo(BaseModel):
    """A queue to consume from, and how to reach it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    connection_url: SecretStr
    queue: str = ""
    exchange: str = ""

    @field_validator("connection_url")
    @classmethod
    def _amqp(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            well_formed = parts.scheme in {"amqp", "amqps"} and bool(parts.hostname)
            well_formed = well_formed and parts.port != 0
        except ValueError:
            well_formed = False
        if not well_formed:
            raise ValueError("must be an amqp:// or amqps:// URL with a host")
        return url


class PublishKwargs(BaseModel):
    """How to publish: the arguments of a ``basic.publish`` as the services wish them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    exchange: str
    routing_key: str
    mandatory: bool = False
    properties: dict[str, Any] = Field(default_factory=dict)


class ResultQueueInfo(QueueInfo):
    """A destination to publish to, and how to reach it."""

    queue_publish_kwargs: PublishKwargs


class UserEndpointQueues(BaseModel):
    """The queues of one user endpoint, with the credentials for them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    endpoint_id: UUID
    task_queue_info: QueueInfo
    result_queue_info: ResultQueueInfo
    heartbeat_queue_info: ResultQueueInfo
