# SPDX-License-Identifier: Apache-2.0
"""The running forwarder: an HTTP server, an AMQP tunnel, until Ctrl-C."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from globus_compute_services.connect.address import Address
from globus_compute_services.connect.forwarder import Forwarder
from globus_compute_services.connect.tunnel import Tunnel
from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.web_server import WebServer, listen

__all__ = ["Plan", "forward"]

_STOP_GRACE_S = 3


@dataclass(frozen=True)
class Plan:
    """What to forward to, whom to trust for it, and where to listen."""

    url: str
    ca_file: Path | None
    http: Address
    amqp: Address

    @property
    def local_url(self) -> str:
        """Where the SDK finds the services; it has ``localhost`` in its table of addresses."""
        host = "localhost" if self.http.is_loopback else self.http.host
        return f"http://{Address(host, self.http.port)}"


async def forward(plan: Plan, ready: Callable[[], None]) -> None:
    """Forward until SIGTERM or SIGINT; ``ready`` is called once all is open.

    Raises Problem if an address or the site cannot be had.
    """
    context = _trust(plan.ca_file)
    tunnel = Tunnel(context, plan.amqp)
    async with AsyncExitStack() as stack:
        forwarder = Forwarder(plan.url, plan.local_url, context, tunnel)
        stack.push_async_callback(forwarder.close)
        await forwarder.check()
        hint = "the SDK looks for port 5000 of localhost: end what has it, or see --listen"
        listeners = listen(plan.http.host, plan.http.port, hint, stack.enter_context(ExitStack()))
        amqp = await tunnel.open()
        stack.callback(amqp.close)
        config = uvicorn.Config(
            forwarder.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_STOP_GRACE_S,
        )
        ready()
        await WebServer(config).serve(sockets=listeners)


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = "it holds no certificate in PEM form"
        if not isinstance(error, ssl.SSLError):
            reason = error.strerror or str(error)
        raise Problem(
            f"--ca-file {ca_file}: {reason}", "ask the site for it", ExitStatus.CONFIGURATION
        ) from error
