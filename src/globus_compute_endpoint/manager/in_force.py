# SPDX-License-Identifier: Apache-2.0
"""What the administrator has written, as far as it is in force; replaced whole by a reload."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from globus_compute_endpoint.config.manager import ManagerSettings, load_manager_settings
from globus_compute_endpoint.host.paths import EndpointPaths
from globus_compute_endpoint.host.watch import FileWatch
from globus_compute_endpoint.manager.mapping import IdentityMapping, load_mapping
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["InForce", "is_seen_by_gateway"]


class InForce:
    """One manager's settings and identity mapping: to be read anew for each use.

    Raises Problem where the files are invalid.
    """

    def __init__(self, paths: EndpointPaths) -> None:
        self._paths = paths
        self.settings = load_manager_settings(paths.configuration)
        self.mapping = IdentityMapping(self._mapping_path(self.settings))
        self._watch: FileWatch | None = None

    def watch(self) -> None:
        """Take the mapping anew whenever its file changes, wherever that is by now."""
        self.close()
        self._watch = FileWatch(self.mapping.path, self.mapping.reload)

    def close(self) -> None:
        """Watch no more."""
        if self._watch:
            self._watch.close()
            self._watch = None

    async def reload(self) -> None:
        """Take all files anew; the mapping file is yet to be watched, should it be another one.

        Raises:
            Problem: one of them is invalid; then nothing has changed.
        """
        try:
            settings = await asyncio.to_thread(load_manager_settings, self._paths.configuration)
            path = self._mapping_path(settings)
            mappers = await asyncio.to_thread(load_mapping, path)
        except Problem as problem:
            problem.hint = f"{problem.hint}; until then, what was in force stays so"
            raise
        self.settings = settings
        self.mapping.put(path, mappers)

    def _mapping_path(self, settings: ManagerSettings) -> Path:
        path = settings.config.identity_mapping_config_path
        if path is None:
            raise Problem(
                "IDENTITY_MAPPING_MISSING",
                f"{self._paths.config_yaml} names no identity_mapping_config_path",
                "a manager that runs as root needs one",
                ExitStatus.CONFIGURATION,
            )
        return path


def is_seen_by_gateway(before: ManagerSettings, after: ManagerSettings) -> bool:
    """Whether what the gateway reads, or what the web services are told, has changed."""
    return _without_secrets(before) != _without_secrets(after)


def _without_secrets(settings: ManagerSettings) -> ManagerSettings:
    return replace(settings, environment={}, ca_certificates=None)
