# SPDX-License-Identifier: Apache-2.0
"""Which scope belongs to which resource server, and what it is in plain words."""

from __future__ import annotations

from globus_compute_services.api.context import COMPUTE_SERVER

__all__ = ["AUTH_SERVER", "COMPUTE_SCOPE", "describe", "group_by_server"]

COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
AUTH_SERVER = "auth.globus.org"

_AUTH_SCOPES = frozenset({"openid", "email", "profile"})
_AUTH_PREFIX = "urn:globus:auth:scope:auth.globus.org:"

_IN_WORDS = {
    COMPUTE_SCOPE: "Use Globus Compute as you: run endpoints, register functions, submit tasks and "
    "read their results; see the groups you are in",
    "openid": "Know who you are",
    "email": "See your email address",
    "profile": "See your name and organization",
    f"{_AUTH_PREFIX}view_identities": "See your other identities, and look up those of others",
    f"{_AUTH_PREFIX}manage_projects": "See your identities in full, and manage your projects",
}


def describe(scope: str) -> str:
    """What a scope allows, for the person who is asked."""
    return _IN_WORDS.get(scope) or f"Use the permission {scope.removeprefix(_AUTH_PREFIX)}"


def group_by_server(scopes: str) -> dict[str, str]:
    """The space-separated scopes asked for, by resource server; all one can have if none are.

    Raises ValueError naming a scope that is not known. Dependent scopes (``a[b *c]``) are ignored:
    no service here needs them.
    """
    by_server: dict[str, list[str]] = {}
    for scope in _top_level(scopes) or [COMPUTE_SCOPE, "openid", "email", "profile"]:
        if scope == COMPUTE_SCOPE:
            server = COMPUTE_SERVER
        elif scope in _AUTH_SCOPES or scope.startswith(_AUTH_PREFIX):
            server = AUTH_SERVER
        else:
            raise ValueError(f"scope: {scope!r} is not known here")
        by_server.setdefault(server, []).append(scope)
    return {server: " ".join(asked) for server, asked in by_server.items()}


def _top_level(scopes: str) -> list[str]:
    depth = 0
    kept = []
    for character in scopes:
        if character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif depth == 0:
            kept.append(character)
    return list(dict.fromkeys("".join(kept).split()))
