# SPDX-License-Identifier: Apache-2.0
"""How a user endpoint ended, and in which words that is told."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from globus_compute_endpoint.manager.protocol import ProblemFields
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["HOST_RESTARTED", "End", "Evidence", "judge"]

HOST_RESTARTED = "the host was restarted"
_ENDS_ITSELF = "a function which calls os._exit ends a ThreadPoolEngine: use another engine"


@dataclass(frozen=True)
class Evidence:
    """What is known of an end.

    ``state``: its own last word. ``wait_status``: its parent's, as of waitpid(2). ``scope_result``:
    systemd's. ``memory``: which limit its scope's processes were killed for, by the kernel's count.
    """

    state: str = "running"
    wait_status: int | None = None
    scope_result: str = "success"
    memory: str | None = None


@dataclass(frozen=True)
class End:
    """How a user endpoint ended.

    ``clean``: in order. ``told``: it has told its user why. ``reason``: why, in a clause; none
    where that was no more than an end in order.
    """

    clean: bool
    told: bool
    reason: str | None
    hint: str = ""

    @property
    def interruption(self) -> str | None:
        """Why, and what to do about it: for the errors of tasks which it cut short."""
        return f"{self.reason}; {self.hint}" if self.reason and self.hint else self.reason

    @property
    def problem(self) -> ProblemFields | None:
        """What its user has not yet been told."""
        if self.clean or self.told:
            return None
        text = f"the user endpoint has died: {self.reason}"
        return ProblemFields.of(Problem("USER_ENDPOINT_DIED", text, self.hint, ExitStatus.INTERNAL))


def judge(evidence: Evidence) -> End:
    """What its end means."""
    status = evidence.wait_status
    clean = status == 0 or (status is None and evidence.state == "stopped")
    if clean and evidence.scope_result == "success":
        return End(clean=True, told=False, reason=None)
    reason, hint = _explain(evidence)
    if clean:  # systemd had it end, because of its limits, and it took its leave in order
        return End(clean=True, told=False, reason=reason, hint=hint)
    return End(clean=False, told=evidence.state == "failed", reason=reason, hint=hint)


def _explain(evidence: Evidence) -> tuple[str, str]:
    status = evidence.wait_status
    if evidence.scope_result == "oom-kill" or evidence.memory:
        limit = f": {evidence.memory}" if evidence.memory else ""
        return f"it ran out of memory{limit}", "ask for less memory, or for a higher limit"
    if evidence.scope_result == "timeout":
        return (
            "its time limit was reached (RuntimeMaxSec)",
            "submit shorter work, or ask for a longer time",
        )
    if status is not None and os.WIFSIGNALED(status):
        name = _signal_name(os.WTERMSIG(status))
        return f"it was killed by {name}", "it may have reached its memory limit"
    if status is not None:
        hint = _ENDS_ITSELF
        if evidence.state == "starting":
            hint = "the end of its endpoint.log may tell why"
        return f"its process exited with status {os.waitstatus_to_exitcode(status)}", hint
    # adopted from an earlier manager: its parent, who would know, is gone
    return "its process ended", f"{_ENDS_ITSELF}; the journal may tell more"


def _signal_name(number: int) -> str:
    """Real-time signals have no names."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
