# SPDX-License-Identifier: Apache-2.0
"""``engine.provider``: what speaks to the site's resources."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import parsl.launchers
import parsl.providers
from parsl.providers import LocalProvider, SlurmProvider

from globus_compute_endpoint.config.loading import KeyPath, WrongOption
from globus_compute_endpoint.engines.parsl_objects import typed
from globus_compute_endpoint.engines.slurm import TellingSlurmProvider

__all__ = ["PromptLocalProvider", "provider_of"]

_PROVIDER: KeyPath = ("engine", "provider")


class PromptLocalProvider(LocalProvider):
    """LocalProvider, but a block which has died is seen within a second.

    ``groups`` are the process groups of its blocks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]  # Parsl leaves it untyped
        self.groups: set[int] = set()

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> Any:
        job_id = super().submit(command, tasks_per_node, job_name)  # type: ignore[no-untyped-call]  # as above
        with contextlib.suppress(ProcessLookupError):
            self.groups.add(os.getpgid(int(job_id)))
        return job_id

    @property
    def status_polling_interval(self) -> int:
        return 1


#: What is better done than Parsl does it.
_OURS: dict[type, type] = {
    LocalProvider: PromptLocalProvider,
    SlurmProvider: TellingSlurmProvider,
}


def provider_of(options: Mapping[str, Any]) -> Any:
    """Return the provider which ``options`` describe.

    Raises:
        WrongOption: Parsl does not take an option, or would stumble over it later.
    """
    path = _PROVIDER
    options = {"type": "LocalProvider", **options}
    if options.get("worker_init") is None:  # a template's way of leaving it out
        options.pop("worker_init", None)
    if isinstance(volumes := options.get("persistent_volumes"), list):  # YAML has no tuples
        options["persistent_volumes"] = [
            tuple(each) if isinstance(each, list) else each for each in volumes
        ]
    if isinstance(options.get("launcher"), Mapping):
        options["launcher"] = typed(
            options["launcher"], parsl.launchers, (*path, "launcher"), "Launcher"
        )
    provider = typed(options, parsl.providers, path, "Provider")
    _check_what_parsl_does_not(provider, path)
    ours = _OURS.get(type(provider))
    if ours is None:
        return provider
    return ours(**{key: value for key, value in options.items() if key != "type"})


def _check_what_parsl_does_not(provider: Any, path: KeyPath) -> None:
    """Refuse what Parsl would stumble over later, or never run a task with."""
    if not isinstance(provider.worker_init, str):
        raise WrongOption((*path, "worker_init"), "must be text")
    if not isinstance(provider.parallelism, int | float) or not 0 < provider.parallelism <= 1:
        raise WrongOption((*path, "parallelism"), "must be a number above 0, up to 1")
    for name in ("nodes_per_block", "init_blocks", "min_blocks", "max_blocks"):
        least = 1 if name in ("nodes_per_block", "max_blocks") else 0
        value = getattr(provider, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise WrongOption((*path, name), f"must be an integer from {least}, not {value!r}")
    for name in ("init_blocks", "min_blocks"):
        if getattr(provider, name) > provider.max_blocks:
            raise WrongOption((*path, name), f"is above max_blocks ({provider.max_blocks})")
