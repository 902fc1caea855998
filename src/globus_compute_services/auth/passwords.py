# SPDX-License-Identifier: Apache-2.0
"""Passwords of people, kept as Argon2id hashes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from globus_compute_services.credentials import new_secret
from globus_compute_services.problem import Problem

__all__ = ["Busy", "Passwords", "Verdict", "check_new_password", "hash_password"]

_SHORTEST = 8
_LONGEST = 1024
_AT_ONCE = 2  # each takes 64 MiB and all of a core for a while
_PATIENCE_S = 10.0
_HASHER = PasswordHasher()


class Busy(Exception):
    """Too many sign-ins are under way."""


@dataclass(frozen=True)
class Verdict:
    """Whether a password was right; ``new_hash`` is to replace one made with weaker parameters."""

    right: bool
    new_hash: str | None = None


class Passwords:
    """Verifies passwords in threads, a few at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        # Compared with where there is no account, so that the time taken does not tell.
        self._nobody = _HASHER.hash(new_secret())

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Compare ``password`` with the ``stored`` hash, if any; raises Busy."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._turns.acquire()
        except TimeoutError:
            raise Busy from None
        try:
            verdict = await asyncio.to_thread(_verify, stored or self._nobody, password)
        finally:
            self._turns.release()
        return verdict if stored else Verdict(right=False)


def hash_password(password: str) -> str:
    """The form in which a password is kept. Takes some 50 ms, and 64 MiB meanwhile."""
    return _HASHER.hash(password)


def check_new_password(password: str) -> None:
    """Raise Problem unless ``password`` will do."""
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise Problem(
            f"A password has {_SHORTEST} to {_LONGEST} characters, this one {len(password)}",
            "a few random words make a good one",
        )


def _verify(stored: str, password: str) -> Verdict:
    try:
        _HASHER.verify(stored, password)
    except (VerifyMismatchError, InvalidHashError):
        return Verdict(right=False)
    outdated = _HASHER.check_needs_rehash(stored)
    return Verdict(right=True, new_hash=_HASHER.hash(password) if outdated else None)
