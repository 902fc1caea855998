# SPDX-License-Identifier: Apache-2.0
"""The sockets on which the REST calls are served, and the certificate shown there."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack

from systemd import daemon

from globus_compute_services.problem import ExitStatus, Problem
from globus_compute_services.settings import HttpSettings, TlsSettings
from globus_compute_services.web_server import listen

__all__ = ["describe", "load_certificate", "open_listeners", "tls_context"]

_FIRST_UNPRIVILEGED = 1024


def open_listeners(http: HttpSettings, owner: ExitStack) -> list[socket.socket]:
    """The sockets which systemd hands over, or else one of our own; ``owner`` closes them.

    Raises Problem if the address cannot be had.
    """
    inherited = [
        owner.enter_context(socket.socket(fileno=descriptor))
        for descriptor in daemon.listen_fds(unset_environment=True)
    ]
    hint = "see http.host and http.port in config.yaml"
    if http.port < _FIRST_UNPRIVILEGED:
        hint = "have systemd open it: systemctl enable --now globus-compute-services.socket"
    return inherited or listen(http.host, http.port, hint, owner)


def describe(listeners: Sequence[socket.socket], *, tls: bool) -> str:
    """Where they are reached, as URLs."""
    scheme = "https" if tls else "http"
    names = [listener.getsockname()[:2] for listener in listeners]
    places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in names)
    return ", ".join(f"{scheme}://{place}" for place in places)


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """A server's context with this certificate; raises Problem naming the file that is wrong."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, tls)
    return context


def load_certificate(context: ssl.SSLContext, tls: TlsSettings) -> None:
    """Show the certificate which is in the files now to whoever connects from here on.

    Raises Problem if they do not fit; then ``context`` goes on with what it had.
    """
    try:
        # A context which has failed to load a pair is left with half of it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key)
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise Problem(
            f"http.tls: {tls.certificate} and {tls.key} cannot be used: {reason}",
            "they must be PEM files, belong together, and be readable for the services' account",
            ExitStatus.CONFIGURATION,
        ) from error
