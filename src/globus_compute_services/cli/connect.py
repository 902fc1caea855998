# SPDX-License-Identifier: Apache-2.0
"""``connect``: have the SDK on this machine use the services of a site."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from globus_compute_services.connect.address import Address
from globus_compute_services.connect.service import Plan, forward
from globus_compute_services.problem import ExitStatus, Problem

__all__ = ["connect"]

# The SDK has a fixed table of addresses; this is what "local" stands for in it.
_SDK_LOCAL_URL = "http://localhost:5000"


@click.command()
@click.argument("url")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The site's certification authority, in PEM, if it is none that the system trusts.",
)
@click.option("--listen", default="127.0.0.1:5000", show_default=True, help="For REST.")
@click.option("--amqp-listen", default="127.0.0.1:5001", show_default=True, help="For results.")
def connect(url: str, ca_file: Path | None, listen: str, amqp_listen: str) -> None:
    """Forward from this machine to the services at URL, until Ctrl-C.

    The stock SDK looks for services of one's own on http://localhost:5000 alone. This passes its
    requests, and its connection for results, on to a site over TLS, and checks who is there.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    plan = Plan(_checked(url), ca_file, Address.parse(listen), Address.parse(amqp_listen))
    asyncio.run(forward(plan, lambda: _tell(plan)))


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise Problem(
            f"{url!r} is not the URL of a site's services",
            "it is https:// with a name and perhaps a port, such as https://compute.example.org",
            ExitStatus.USAGE,
        )
    return url.rstrip("/")


def _tell(plan: Plan) -> None:
    for option, address in (("--listen", plan.http), ("--amqp-listen", plan.amqp)):
        if not address.is_loopback:
            print(
                f"Warning: {option} {address} is not of this machine alone; secrets go there"
                " unencrypted",
                file=sys.stderr,
            )
    if plan.local_url != _SDK_LOCAL_URL:
        print(f"Note: the SDK looks for {_SDK_LOCAL_URL} alone", file=sys.stderr)
    print(
        f"Forwarding {plan.local_url} to {plan.url}, until Ctrl-C.\n"
        "Where the SDK runs:\n\n"
        "    export GLOBUS_SDK_ENVIRONMENT=local\n"
        f"    export GLOBUS_SDK_SERVICE_URL_AUTH={plan.local_url}/\n",
        flush=True,
    )
