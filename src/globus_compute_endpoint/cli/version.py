# SPDX-License-Identifier: Apache-2.0
"""``globus-compute-endpoint version``."""

from __future__ import annotations

import click
from globus_compute_sdk.version import __version__ as sdk_version

from globus_compute_endpoint import __version__
from globus_compute_endpoint.cli.output import print_json

__all__ = ["version"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Show the version of the endpoint and of its SDK."""
    if as_json:
        print_json({"endpoint": __version__, "sdk": sdk_version})
        return
    click.echo(f"Globus Compute Endpoint version: {__version__}")
    click.echo(f"Globus Compute SDK version: {sdk_version}")
