# SPDX-License-Identifier: Apache-2.0
"""What befalls RabbitMQ, the web services and the network between: it delays, and nothing more."""

from __future__ import annotations

import random
import time

from support.waiting import until
from system.faults.books import SENT_AGAIN
from system.faults.residue import DATABASE
from system.faults.stage import Fault, Stage
from system.hosts import filter_network
from system.network import BROKER, LOGIN_NODE, RULES

RABBITMQ = "rabbitmq-server"
WEB = "globus-compute-services"
_HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
time.sleep(float(sys.argv[2]))
database.execute("ROLLBACK")
"""
BOTH = (f"{WEB}.socket", f"{WEB}.service")


def _systemctl(verb: str, *units: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        stage.warm.services.run("systemctl", verb, *units)

    return Fault(f"{verb} of {units[0].removesuffix('.socket')}", inject)


def _outage(name: str, patience: float, *units: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        stage.warm.services.run("systemctl", "stop", *units)
        time.sleep(rng.uniform(patience / 2, patience))

    def heal(stage: Stage) -> None:
        stage.warm.services.run("systemctl", "start", *units)

    return Fault(name, inject, heal)


def _kill(name: str, unit: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        services = stage.warm.services
        before = stage.warm.property(unit, "MainPID", services)
        services.run("systemctl", "kill", "--signal=KILL", unit)
        # RabbitMQ's unit does not restart by itself, the services' does.
        services.run("systemctl", "start", unit)
        until(lambda: stage.warm.property(unit, "MainPID", services) not in (before, "0", ""), 60)

    return Fault(f"kill -9 of {name}", inject, explains=(SENT_AGAIN,))


def _cut(stage: Stage, rng: random.Random) -> None:
    stage.warm.services.run("rabbitmqctl", "-q", "close_all_connections", "cut by a test")


def _cut_own(stage: Stage, rng: random.Random) -> None:
    """The web services' own; the endpoints' and the laptop's stay."""
    cut = ("close_all_user_connections", "globus-compute-services", "cut by a test")
    stage.warm.services.run("rabbitmqctl", "-q", *cut)


def _lock_database(stage: Stage, rng: random.Random) -> None:
    """Another program writes to it for longer than the services wait for their turn."""
    seconds = f"{rng.uniform(12, 20):.1f}"
    stage.warm.services.run("python3", "-c", _HOLD, DATABASE, seconds)


def _network(stage: Stage) -> str:
    assert stage.warm.host.link
    return stage.warm.host.link.network


def _drop(stage: Stage, rng: random.Random) -> None:
    """Half-open: what was connected hears nothing more, not even that it was cut."""
    # The laptop's stays whole: what the SDK does of a dead connection is not ours to try.
    rule = f"ip saddr {LOGIN_NODE} ip daddr {BROKER} drop"
    filter_network(_network(stage), RULES.replace("ct state", f"{rule}\n        ct state", 1))
    time.sleep(rng.uniform(2, 10))


def _let_through(stage: Stage) -> None:
    filter_network(_network(stage), RULES)


SERVICES_FAULTS = [
    _systemctl("restart", RABBITMQ).only_in_soaks(),
    _systemctl("restart", f"{WEB}.service").only_in_soaks(),
    _kill("RabbitMQ", RABBITMQ).only_in_soaks(),
    _kill("the web services", f"{WEB}.service"),
    _outage("RabbitMQ away", 20, RABBITMQ).only_in_soaks(),
    _outage("web services away", 10, *BOTH).only_in_soaks(),
    Fault("connections closed by RabbitMQ", _cut),
    Fault("the services' own connection closed", _cut_own),
    Fault("the database locked by another", _lock_database, explains=(SENT_AGAIN,)).only_in_soaks(),
    Fault("packets to RabbitMQ dropped", _drop, _let_through),
]
