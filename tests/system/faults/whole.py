# SPDX-License-Identifier: Apache-2.0
"""What befalls the whole endpoint, or its host: new configuration, upgrade, stop, reboot."""

from __future__ import annotations

import random
import time

from support.waiting import until
from system.faults.stage import Fault, Stage
from system.faults.units import PARTS

CUT_SHORT = ("interrupted",)


def _reload(stage: Stage, rng: random.Random) -> None:
    stage.warm.host.run("systemctl", "reload", stage.unit())


def _reinstall(stage: Stage, rng: random.Random) -> None:
    package = "find /root/packages -name 'globus-compute-endpoint_*.deb' -exec dpkg --install {} +"
    stage.warm.host.run("sh", "-c", package, environment={"DEBIAN_FRONTEND": "noninteractive"})


def _stop(stage: Stage, rng: random.Random) -> None:
    stage.warm.host.run("systemctl", "stop", stage.warm.unit)
    assert not stage.warm.scopes()
    time.sleep(rng.uniform(0, 3))


def _start(stage: Stage) -> None:
    stage.warm.host.run("systemctl", "start", stage.warm.unit)


def _boot_anew(stage: Stage, *, crash: bool) -> None:
    host = stage.warm.host
    host.run("systemctl", "enable", stage.warm.unit)
    host.down(keep_disk=True, crash=crash)
    host.up()
    until(lambda: stage.warm.property(stage.warm.unit, "ActiveState") == "active", 40)


def _reboot(stage: Stage, rng: random.Random) -> None:
    _boot_anew(stage, crash=False)


def _power_loss(stage: Stage, rng: random.Random) -> None:
    _boot_anew(stage, crash=True)


def _hang(part: str) -> Fault:
    def inject(stage: Stage, rng: random.Random) -> None:
        unit = stage.unit(PARTS[part])
        hung = stage.warm.property(unit, "MainPID")
        stage.warm.host.run("kill", "-STOP", hung)
        # WatchdogSec=30, and what systemd and the machine take.
        until(lambda: stage.warm.property(unit, "MainPID") not in (hung, "0", ""), 90)

    return Fault(f"the {part} hangs", inject).only_in_soaks()


WHOLE_FAULTS = [
    Fault("systemctl reload", _reload),
    Fault("package installed again", _reinstall).only_in_soaks(),  # see test_upgrade
    Fault("systemctl stop, then start", _stop, _start, explains=CUT_SHORT),
    Fault("reboot of the login node", _reboot, explains=CUT_SHORT).only_in_soaks(),
    Fault("power loss of the login node", _power_loss, explains=CUT_SHORT).only_in_soaks(),
    *map(_hang, PARTS),
]
