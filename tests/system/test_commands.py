# SPDX-License-Identifier: Apache-2.0
"""Whatever lies on the command queue: told, dropped, and the next command is carried out."""

import json
import time

from support.waiting import until

PUBLISH = """
import json, sys, time, pika
from globus_compute_services.settings import CONFIG_FILE, load_settings
url = load_settings(CONFIG_FILE).broker.own_url()
with pika.BlockingConnection(pika.URLParameters(url)) as connection:
    channel = connection.channel()
    channel.confirm_delivery()
    for body, age in json.load(sys.stdin):
        properties = pika.BasicProperties(
            content_type="application/json", timestamp=int(time.time()) - age)
        channel.basic_publish("", sys.argv[1], body.encode(), properties, mandatory=True)
"""


def double(number):
    return 2 * number


def test_malformed_and_oversized_commands_disturb_nobody(warm):
    gateway = f"globus-compute-endpoint-gateway@{warm.name}.service"
    pid = warm.property(gateway, "MainPID")
    commands = [
        ("", 0),
        ("{", 0),
        ("[" * 50_000, 0),
        (json.dumps({"command": "cmd_start_endpoint"}), 0),
        (json.dumps({"command": "rm -rf /", "kwargs": {"name": "../../x"}}), 0),
        (json.dumps({"command": "cmd_start_endpoint", "kwargs": {"x": "y" * 2_000_000}}), 0),
        (json.dumps({"command": "cmd_start_endpoint", "kwargs": {}}), 400),
    ]
    python = "/usr/lib/globus-compute-services/bin/python"
    queue = f"{warm.endpoint_id}.command_queue"
    listed = warm.services.run("rabbitmqctl", "-q", "list_queues", "-p", "globus-compute", "name")
    assert queue in listed.stdout.split(), listed.stdout
    before = len(warm.host.journal("-u", gateway, "--grep", "refused a command"))
    warm.services.run(python, "-c", PUBLISH, queue, stdin=json.dumps(commands))
    until(
        lambda: (
            len(warm.host.journal("-u", gateway, "--grep", "refused a command"))
            == before + len(commands)
        )
    )
    problems = [e["GC_PROBLEM"] for e in warm.host.journal("-u", gateway, "--grep", "refused a")]
    assert problems[-1] == "STALE_COMMAND"
    assert set(problems[-len(commands) : -1]) == {"MALFORMED_COMMAND"}
    began = time.monotonic()
    assert warm.researcher("alice").call(double, 4, engine="ThreadPoolEngine") == 8
    assert time.monotonic() - began < 20
    assert warm.property(gateway, "MainPID") == pid
