# SPDX-License-Identifier: Apache-2.0
from globus_compute_services.credentials import (
    derive_password,
    hash_secret,
    new_secret,
    token_digest,
    verify_secret,
)


def test_a_secret_is_known_again_and_no_other() -> None:
    secret = new_secret()
    stored = hash_secret(secret)
    assert secret not in stored
    assert verify_secret(secret, stored)
    assert not verify_secret(secret + "x", stored)
    assert hash_secret(secret) != stored, "each has a salt of its own"


def test_a_password_depends_on_key_account_and_generation() -> None:
    made = {
        derive_password(key, account, generation)
        for key in ("k1", "k2")
        for account in ("a", "b")
        for generation in (1, 2, 12)
    }
    assert len(made) == 12
    assert derive_password("k1", "a", 1) in made


def test_a_token_cannot_be_read_from_its_digest() -> None:
    token = new_secret()
    assert token not in token_digest(token)
    assert token_digest(token) == token_digest(token)
