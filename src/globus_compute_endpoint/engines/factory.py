# SPDX-License-Identifier: Apache-2.0
"""From an engine's configuration to the engine."""

from __future__ import annotations

from typing import Any

from globus_compute_endpoint.config.engines import (
    EngineConfig,
    GlobusMPIEngineConfig,
    ProcessPoolEngineConfig,
    ThreadPoolEngineConfig,
)
from globus_compute_endpoint.engines.base import Engine
from globus_compute_endpoint.engines.process_pool import ProcessPoolEngine
from globus_compute_endpoint.engines.thread_pool import ThreadPoolEngine

__all__ = ["build"]


def build(config: EngineConfig) -> Engine:
    """Make the engine which ``config`` describes.

    Raises:
        Problem: the engine cannot do what is asked of it (CONFIGURATION).
    """
    common: dict[str, Any] = {
        "allowed_serializers": config.allowed_serializers,
        "run_in_sandbox": config.run_in_sandbox,
        "working_dir": config.working_dir,
        "max_retries_on_system_failure": config.max_retries_on_system_failure,
    }
    if isinstance(config, ThreadPoolEngineConfig):
        return ThreadPoolEngine(config.max_workers, **common)
    if isinstance(config, ProcessPoolEngineConfig):
        return ProcessPoolEngine(config.max_workers, **common)
    # Only these pay for Parsl.
    from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
    from globus_compute_endpoint.engines.mpi import GlobusMPIEngine

    on_blocks = (
        GlobusMPIEngine if isinstance(config, GlobusMPIEngineConfig) else GlobusComputeEngine
    )
    return on_blocks(config, **common)
