# SPDX-License-Identifier: Apache-2.0
"""What befalls the accounts of endpoints on RabbitMQ: they are renewed, and nothing fails."""

from __future__ import annotations

import random
import shlex

from support.waiting import until
from system.faults.books import SENT_AGAIN
from system.faults.stage import Fault, Stage
from system.faults.user_endpoints import ENGINES, endpoints

_CONFIG = "/etc/globus-compute-services/config.yaml"
_WEB = "globus-compute-services.service"
# Deleting closes connections, too. It is all in one call: rabbitmqctl itself takes a second.
_DELETE = """
[rabbit_auth_backend_internal:delete_user(Name, <<"a test">>)
 || [{{user, <<"ep.", _/binary>> = Name}} | _] <- rabbit_auth_backend_internal:list_users(),
    lists:member(Name, [{names}]) orelse {all}].
"""


def _delete(stage: Stage, *ids: str) -> None:
    """Delete the accounts of endpoints, or of all."""
    names = ", ".join(f'<<"ep.{each}">>' for each in ids)
    script = _DELETE.format(names=names, all=str(not ids).lower())
    stage.warm.services.run("rabbitmqctl", "-q", "eval", script)


def _of_user_endpoint(stage: Stage, rng: random.Random) -> None:
    """Its manager's stays: nobody knows before its heartbeats are missed."""
    _delete(stage, rng.choice(endpoints(stage, rng.choice(ENGINES))))


def _of_manager(stage: Stage, rng: random.Random) -> None:
    _delete(stage, stage.warm.endpoint_id)


def _of_all(stage: Stage, rng: random.Random) -> None:
    """As when RabbitMQ was set up anew."""
    _delete(stage)


def _rotate(stage: Stage, rng: random.Random) -> None:
    """Another key of the services, so other passwords; with the old ones nobody gets in."""
    services = stage.warm.services
    key = f"key: {rng.getrandbits(256):064x}"
    config = services.read(_CONFIG)
    lines = [key if line.startswith("key:") else line for line in config.splitlines()]
    assert key in lines
    # Into the file that is there: its owner and mode are to stay.
    services.run("sh", "-c", f"cat >{shlex.quote(_CONFIG)}", stdin="\n".join([*lines, ""]))
    services.run("systemctl", "restart", _WEB)
    _delete(stage)
    until(lambda: stage.warm.property(_WEB, "ActiveState", services) == "active", 40)


CREDENTIALS_FAULTS = [
    Fault("account of a user endpoint deleted", _of_user_endpoint).only_in_soaks(),
    Fault("account of the manager deleted", _of_manager).only_in_soaks(),
    Fault("accounts of all endpoints deleted", _of_all).only_in_soaks(),
    # The services are restarted for it, perhaps between a broker's confirm and their note of that.
    Fault("passwords of all rotated", _rotate, explains=(SENT_AGAIN,)),
]
