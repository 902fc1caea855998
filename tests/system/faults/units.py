# SPDX-License-Identifier: Apache-2.0
"""What befalls manager, gateway and spawner, which have no task in their hands: none may fail."""

from __future__ import annotations

import random

from support.waiting import until
from system.faults.stage import Fault, Stage

PARTS = {"manager": "", "gateway": "-gateway", "spawner": "-spawner"}


def _restart(part: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        stage.warm.host.run("systemctl", "restart", stage.unit(PARTS[part]))

    return Fault(f"restart of the {part}", inject)


def _kill(part: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        unit = stage.unit(PARTS[part])
        before = stage.warm.property(unit, "MainPID")
        stage.warm.host.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
        until(lambda: stage.warm.property(unit, "MainPID") not in (before, "0", ""))

    return Fault(f"kill -9 of the {part}", inject)


UNIT_FAULTS = [
    *(_restart(part).only_in_soaks() for part in PARTS),
    _kill("manager"),
    _kill("gateway").only_in_soaks(),
    _kill("spawner"),
]
