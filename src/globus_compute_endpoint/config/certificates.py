# SPDX-License-Identifier: Apache-2.0
"""The certification authorities of private web services, as text that can be handed on."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = ["read_certificates"]

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def read_certificates(path: Path) -> str:
    """Return the certificates in a PEM file, without the comments which bundles have between them.

    Raises:
        Problem: the file cannot be read, or holds no certificate (CONFIGURATION).
    """
    try:
        text = b"\n".join(_CERTIFICATE.findall(path.read_bytes())).decode("ascii")
        ssl.create_default_context(cadata=text or "none")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Problem(
            "CA_FILE_INVALID",
            f"services.ca_file: {path}: {reason}",
            "it must hold certificates in PEM form, and be readable here",
            ExitStatus.CONFIGURATION,
        ) from error
    return text
