# SPDX-License-Identifier: Apache-2.0
"""``engine.provider``: what speaks to the site's resources."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

import parsl.launchers
import parsl.providers
from parsl.providers import LocalProvider, SlurmProvider

from globus_compute_endpoint.config.loading import KeyPath, WrongOption
from globus_compute_endpoint.engines.parsl_objects import call, check_known, known, typed
from globus_compute_endpoint.engines.provider_options import (
    check_launcher,
    check_options,
    check_packages,
    check_sizes,
    check_type,
    warn_of_launcher,
)
from globus_compute_endpoint.engines.slurm import TellingSlurmProvider

__all__ = ["PromptLocalProvider", "provider_of"]

_PROVIDER: KeyPath = ("engine", "provider")
_EMPTY_AS_NONE = ("worker_init", "scheduler_options")


class PromptLocalProvider(LocalProvider):
    """LocalProvider, but a block which has died is seen within a second.

    ``groups`` are the process groups of its blocks.
    """

    __signature__ = inspect.signature(LocalProvider)

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
    for name in _EMPTY_AS_NONE:
        if options.get(name, "") is None:  # a template's way of leaving it out
            del options[name]
    check_type(options["type"], path)
    kind = getattr(parsl.providers, known(options["type"], _names(), path))
    check_options(kind, options, path)
    if isinstance(options.get("launcher"), Mapping):
        check_launcher(options["launcher"], (*path, "launcher"))
        options["launcher"] = typed(
            options["launcher"], parsl.launchers, (*path, "launcher"), "Launcher"
        )
    elif "launcher" in options:
        raise WrongOption((*path, "launcher"), "must be a mapping with a type")
    if "persistent_volumes" in options:
        options["persistent_volumes"] = _pairs(options["persistent_volumes"])
    given = {key: value for key, value in options.items() if key != "type"}
    check_known(kind, given, path)
    check_packages(options["type"], path)
    provider = call(_OURS.get(kind, kind), given, path)
    if not hasattr(provider, "nodes_per_block"):  # GoogleCloudProvider: HTEX asks for it
        provider.nodes_per_block = 1
    check_sizes(provider, path)
    warn_of_launcher(provider, options)
    return provider


def _names() -> list[str]:
    return [name for name in dir(parsl.providers) if name.endswith("Provider")]


def _pairs(value: Any) -> Any:
    """YAML has no tuples."""
    if not isinstance(value, list):
        return value
    return [tuple(each) if isinstance(each, list) else each for each in value]
