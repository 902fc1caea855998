# SPDX-License-Identifier: Apache-2.0
"""A program on a pseudo-terminal, which is typed at and read as a person would."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType


class Terminal:
    """Runs a command whose standard input, output and error are one terminal."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._end, theirs = pty.openpty()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={"TERM": "dumb", "COLUMNS": "200", **environment},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        self.text = ""

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Read on until the pattern is there."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text, re.DOTALL)) is None:
            ready, _, _ = select.select([self._end], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} within {seconds} s in:\n{self.text}"
            assert self._read(), f"the program ended without {pattern!r}:\n{self.text}"
        return found

    def type_line(self, line: str) -> None:
        os.write(self._end, line.encode() + b"\n")

    def ended(self, seconds: float = 60) -> int:
        """Read all that comes, and return the exit status."""
        deadline = time.monotonic() + seconds
        while select.select([self._end], [], [], max(0, deadline - time.monotonic()))[0]:
            if not self._read():
                return self.process.wait(max(1, deadline - time.monotonic()))
        raise AssertionError(f"the program has not ended within {seconds} s:\n{self.text}")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
        os.close(self._end)

    def _read(self) -> bool:
        try:
            data = os.read(self._end, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
