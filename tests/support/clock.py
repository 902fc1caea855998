# SPDX-License-Identifier: Apache-2.0
"""A clock of the test's own for the processes which it starts, by Debian's faketime."""

from __future__ import annotations

from pathlib import Path

_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


class Clock:
    """The real-time clock of processes with this ``environment``; the monotonic one stays."""

    def __init__(self, offset: Path) -> None:
        self._offset = offset
        self.step(0)

    @property
    def environment(self) -> dict[str, str]:
        assert _LIBRARY.exists(), f"{_LIBRARY} is missing"
        return {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def step(self, seconds: float) -> None:
        """Set the clock so far off, from now on."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}s\n")
        new.replace(self._offset)
