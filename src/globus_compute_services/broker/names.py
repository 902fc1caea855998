# SPDX-License-Identifier: Apache-2.0
"""Names of queues, exchanges and accounts on the broker, and the rights that follow from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

__all__ = [
    "HEARTBEATS",
    "HEARTBEATS_QUEUE",
    "RESULTS",
    "RESULTS_QUEUE",
    "Rights",
    "command_queue",
    "endpoint_account",
    "endpoint_of_account",
    "endpoint_of_key",
    "endpoint_rights",
    "heartbeats_key",
    "result_account",
    "result_queue",
    "result_queue_prefix",
    "result_rights",
    "results_key",
    "task_queue",
]

RESULTS = "results"
HEARTBEATS = "heartbeats"
RESULTS_QUEUE = "services.results"
HEARTBEATS_QUEUE = "services.heartbeats"

_NOTHING = "^$"


def task_queue(endpoint: UUID) -> str:
    return f"{endpoint}.tasks"


def command_queue(manager: UUID) -> str:
    return f"{manager}.command_queue"


def results_key(endpoint: UUID) -> str:
    return f"{endpoint}.results"


def heartbeats_key(endpoint: UUID) -> str:
    return f"{endpoint}.heartbeats"


def endpoint_of_key(routing_key: str) -> UUID | None:
    """The endpoint as which a result or heartbeat was published; the broker vouches for it."""
    try:
        return UUID(routing_key.partition(".")[0])
    except ValueError:
        return None


def result_queue_prefix(identity: UUID) -> str:
    return f"tg.{identity}."


def result_queue(identity: UUID, group: UUID) -> str:
    return f"{result_queue_prefix(identity)}{group}"


def endpoint_account(endpoint: UUID) -> str:
    return f"ep.{endpoint}"


def endpoint_of_account(account: str) -> UUID | None:
    """Whose account it is; None for accounts of researchers and of the services."""
    kind, _, identifier = account.partition(".")
    try:
        return UUID(identifier) if kind == "ep" else None
    except ValueError:
        return None


def result_account(identity: UUID, period: int) -> str:
    """The account for reading results in a ``period`` (a running number)."""
    return f"res.{identity}.{period}"


@dataclass(frozen=True)
class Rights:
    """What an account may do: regular expressions over names, and over topics by exchange."""

    read: str
    write: str = _NOTHING
    configure: str = _NOTHING
    topics: tuple[tuple[str, str], ...] = ()


def endpoint_rights(endpoint: UUID, *, manager: bool) -> Rights:
    """Read its own queues; write results and heartbeats as itself, and nothing else."""
    own = re.escape(str(endpoint))
    queues = "tasks|command_queue" if manager else "tasks"
    return Rights(
        read=rf"^{own}\.({queues})$",
        write=f"^({RESULTS}|{HEARTBEATS})$",
        topics=(
            (RESULTS, rf"^{own}\.results$"),
            (HEARTBEATS, rf"^{own}\.heartbeats$"),
        ),
    )


def result_rights(identity: UUID) -> Rights:
    """Read the result queues of one identity."""
    return Rights(read=f"^{re.escape(result_queue_prefix(identity))}")
