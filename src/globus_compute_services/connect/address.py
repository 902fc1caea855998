# SPDX-License-Identifier: Apache-2.0
"""Addresses which people write as HOST:PORT."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

from globus_compute_services.problem import ExitStatus, Problem

__all__ = ["Address"]


@dataclass(frozen=True)
class Address:
    """A host and a port; an IPv6 address is written in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST:PORT``; raises Problem."""
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise Problem(
                f"{text!r} is not HOST:PORT", "for example 127.0.0.1:5000", ExitStatus.USAGE
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
