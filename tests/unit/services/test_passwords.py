# SPDX-License-Identifier: Apache-2.0
import asyncio

from argon2 import PasswordHasher

from globus_compute_services.auth.passwords import Passwords, hash_password


def test_a_password_is_kept_as_argon2id_and_recognized():
    stored = hash_password("correct horse")
    assert stored.startswith("$argon2id$")

    async def run() -> None:
        passwords = Passwords()
        assert (await passwords.verify(stored, "correct horse")).right
        assert not (await passwords.verify(stored, "correct horsf")).right
        assert not (await passwords.verify(None, "correct horse")).right

    asyncio.run(run())


def test_a_weaker_hash_is_replaced():
    stored = PasswordHasher(time_cost=1, memory_cost=8192).hash("correct horse")

    async def run() -> None:
        verdict = await Passwords().verify(stored, "correct horse")
        assert verdict.new_hash is not None
        assert "m=65536" in verdict.new_hash
        assert (await Passwords().verify(verdict.new_hash, "correct horse")).right

    asyncio.run(run())
