# SPDX-License-Identifier: Apache-2.0
"""What befalls homes: here one which a user's own program serves, and which refuses root."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from subprocess import Popen

from support.waiting import until
from system.faults.stage import Fault, Stage
from system.hosts import Host

OWNER = "carol"  # not one of those whose books are kept: root could not read the record
_SERVER = "home-of-carol.service"
_UNIT = """
[Service]
User={owner}
ExecStart=bindfs -f --no-allow-other /srv/{owner} {home}

[Install]
WantedBy=multi-user.target
"""  # a unit of its own, since the host may have been rebooted by another fault
_FROZEN = 4.0  # seconds, besides what happens meanwhile
_TASKS = 10


def double(n: int) -> int:
    return 2 * n


class ServedHome:
    """A home on FUSE: its owner's alone, without ``allow_root``, and as quick as its server."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.path = f"/home/{OWNER}"
        if host.run("id", OWNER, check=False).returncode != 0:
            host.add_user(OWNER)
            host.run("find", self.path, "-mindepth", "1", "-delete")  # FUSE wants it empty
            host.run("install", "-d", "-o", OWNER, "-g", OWNER, f"/srv/{OWNER}")
            host.write(f"/etc/systemd/system/{_SERVER}", _UNIT.format(owner=OWNER, home=self.path))
            host.run("systemctl", "enable", "--now", _SERVER)
        until(lambda: self.path in host.read("/proc/mounts"))

    def refuses_root(self) -> bool:
        return self._host.run("ls", self.path, check=False).returncode != 0

    def freeze(self) -> None:
        self._host.run("systemctl", "kill", "--signal=STOP", _SERVER)

    def thaw(self) -> None:
        self._host.run("systemctl", "kill", "--signal=CONT", _SERVER)


@contextlib.contextmanager
def _submitting(stage: Stage, count: int, engine: str) -> Iterator[Callable[[], list[object]]]:
    """Submit from the laptop; what is yielded waits for the values, or errors."""
    carol = stage.warm.researcher(OWNER)
    command = carol.command(*((double, (n,)) for n in range(count)), engine=engine)
    process: Popen[str]
    with stage.warm.laptop.background(*command, environment=carol.environment) as process:

        def values() -> list[object]:
            told, _ = process.communicate(timeout=60)
            outcomes = [json.loads(line) for line in told.splitlines()]
            return [each.get("value", each.get("error")) for each in outcomes]

        yield values


def _freeze(stage: Stage, rng: random.Random) -> None:
    """A user endpoint runs, another starts, and the manager is restarted meanwhile."""
    home = ServedHome(stage.warm.host)
    assert home.refuses_root()
    assert stage.warm.researcher(OWNER).call(double, 1, engine="ThreadPoolEngine") == 2
    home.freeze()
    began = time.time()
    with (
        _submitting(stage, _TASKS, "ThreadPoolEngine") as running,
        _submitting(stage, _TASKS, "ProcessPoolEngine") as starting,
    ):
        time.sleep(rng.uniform(0.5, 2.0))
        stage.warm.host.run("systemctl", "restart", stage.unit())
        others = stage.load.recover(time.time(), 15)
        assert others is not None, "others were held up"
        time.sleep(max(0.0, began + _FROZEN - time.time()))
        home.thaw()
        expected = [double(n) for n in range(_TASKS)]
        assert running() == expected
        assert starting() == expected


def _thaw(stage: Stage) -> None:
    ServedHome(stage.warm.host).thaw()


HOME_FAULTS = [Fault("a home which refuses root is frozen", _freeze, _thaw)]
