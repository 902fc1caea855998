# SPDX-License-Identifier: Apache-2.0
"""Serving, and telling clients where."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path

import click
from sqlalchemy.exc import InterfaceError, OperationalError

from globus_compute_services.cli.clients import in_transaction
from globus_compute_services.logs import set_up_logging
from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.service import serve as run_services
from globus_compute_services.settings import load_settings
from globus_compute_services.store.identities import list_clients

__all__ = ["env", "serve"]

# The SDK has a fixed table of addresses; this is what "local" stands for in it.
_SDK_LOCAL_URL = "http://localhost:5000"


@click.command()
@click.option("--debug", is_flag=True, help="Log more.")
@click.pass_obj
def serve(config: Path, debug: bool) -> None:
    """Serve until told to stop (the service unit runs this)."""
    settings = load_settings(config)
    set_up_logging(debug=debug or settings.debug)
    try:
        asyncio.run(run_services(settings))
    except BaseExceptionGroup as group:
        lost = group.subgroup((OperationalError, InterfaceError, OSError))
        if lost is None:
            raise
        raise Problem(
            f"The database went away: {lost.exceptions[0]}",
            "see database_url in config.yaml; systemd starts the services again",
            ExitStatus.UNAVAILABLE,
        ) from group


@click.command()
@click.option("--client", "client_name", metavar="NAME", help="Also the id of this client.")
@click.pass_obj
def env(config: Path, client_name: str | None) -> None:
    """Print the environment which an SDK user or an endpoint needs, for a shell to evaluate."""
    public_url = load_settings(config).http.public_url.rstrip("/")
    elsewhere = public_url.startswith("https:")
    variables = {
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": f"{_SDK_LOCAL_URL if elsewhere else public_url}/",
    }
    if client_name is not None:
        ids = {client.name: str(client.id) for client, _ in in_transaction(config, list_clients)}
        if client_name not in ids:
            raise Problem(
                f"There is no client {client_name}", "see: globus-compute-services client list"
            )
        variables["GLOBUS_COMPUTE_CLIENT_ID"] = ids[client_name]
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    if client_name is not None:
        print("# GLOBUS_COMPUTE_CLIENT_SECRET was printed when the client was made")
    if elsewhere:
        print(f"Beside the SDK, run: globus-compute-services connect {public_url}", file=sys.stderr)
    elif public_url != _SDK_LOCAL_URL:
        print(
            f"Note: the SDK finds services on {_SDK_LOCAL_URL} only; forward it to {public_url}",
            file=sys.stderr,
        )
