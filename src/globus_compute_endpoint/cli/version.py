# SPDX-License-Identifier: Apache-2.0
"""``globus-compute-endpoint version``."""

from __future__ import annotations

import click
from globus_compute_sdk.version import __version__ as sdk_version

from globus_compute_endpoint import __version__

__all__ = ["version"]


@click.command()
def version() -> None:
    """Show the version of the endpoint and of its SDK."""
    click.echo(f"Globus Compute Endpoint version: {__version__}")
    click.echo(f"Globus Compute SDK version: {sdk_version}")
