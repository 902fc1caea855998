# SPDX-License-Identifier: Apache-2.0
"""Stands in for an endpoint at the AMQP level: runs each task at once, in this process.

Reads a registration answer (JSON) on standard input; runs until it is killed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pika
from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport, Result, Task
from globus_compute_sdk.serialize import ComputeSerializer


def main() -> None:
    info = json.load(sys.stdin)
    connection = pika.BlockingConnection(
        pika.URLParameters(info["task_queue_info"]["connection_url"])
    )
    channel = connection.channel()
    channel.confirm_delivery()
    serializer = ComputeSerializer()

    def publish(message: EPStatusReport | Result, queue_info: dict[str, Any]) -> None:
        kwargs = dict(queue_info["queue_publish_kwargs"])
        properties = pika.BasicProperties(**kwargs.pop("properties"))
        channel.basic_publish(body=messagepack.pack(message), properties=properties, **kwargs)

    def on_task(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        task = messagepack.unpack(body)
        assert isinstance(task, Task)
        try:
            function, args, kwargs = serializer.unpack_and_deserialize(task.task_buffer)
            result = Result(
                task_id=task.task_id, data=serializer.serialize(function(*args, **kwargs))
            )
        except Exception as error:  # noqa: BLE001 (a researcher's function may raise anything)
            details = {"code": "RemoteExecutionError", "user_message": repr(error)}
            result = Result(task_id=task.task_id, data=repr(error), error_details=details)
        publish(result, info["result_queue_info"])
        channel.basic_ack(method.delivery_tag)

    beat = EPStatusReport(
        endpoint_id=info["endpoint_id"], global_state={"heartbeat_period": 30}, task_statuses={}
    )
    publish(beat, info["heartbeat_queue_info"])
    channel.basic_qos(prefetch_count=50)
    channel.basic_consume(info["task_queue_info"]["queue"], on_task, exclusive=True)
    print("consuming", flush=True)
    channel.start_consuming()


if __name__ == "__main__":
    main()
