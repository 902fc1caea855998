# SPDX-License-Identifier: Apache-2.0
"""The demo: two researchers, three engines, three hosts, and what the kernel says of it all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from demo.checks import Mismatch
from demo.scene import Scene
from system.hosts import remove_orphans
from system.packages import build_packages
from system.site import sdk_environment, three_machines

BEGAN = time.monotonic()


def tell(line: str) -> None:
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {line}", flush=True)


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    keep = os.environ.get("KEEP", "") not in ("", "0")
    try:
        remove_orphans()
        tell("the Debian packages")
        build_packages()
        tell("the researchers' environment: globus-compute-sdk from PyPI")
        sdk = sdk_environment()
        tell("booting a laptop, the services' machine and a login node")
        with three_machines("demo", sdk, keep=keep) as machines:
            scene = Scene(machines, sdk, tell)
            scene.play()
            if keep:
                print(scene.how_to_go_on())
    except Mismatch as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except subprocess.SubprocessError as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as why:
        print(f"demo: stopped ({why or 'Ctrl-C'})", file=sys.stderr)
        return 130
    tell("each cell was checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
