# SPDX-License-Identifier: Apache-2.0
"""Id tokens, and the key by which clients check them."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import RSAAlgorithm

from globus_compute_services.store.schema import Identity

__all__ = ["ALGORITHM", "Signer"]

ALGORITHM = "RS256"


class Signer:
    """Signs with one key, which lives as long as the database."""

    def __init__(self, key_id: str, private_key: str) -> None:
        key = load_pem_private_key(private_key.encode(), password=None)
        assert isinstance(key, RSAPrivateKey)
        self._key_id = key_id
        self._key = key

    def public_key(self) -> dict[str, Any]:
        """The public half, as a JSON Web Key."""
        document = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return document | {"alg": ALGORITHM, "use": "sig", "kid": self._key_id}

    def id_token(
        self, issuer: str, client_id: UUID, identity: Identity, signed_in: float, lifetime_s: int
    ) -> str:
        """Tell the client who signed in, and when."""
        now = int(time.time())
        claims = {
            "iss": issuer,
            "aud": str(client_id),
            "sub": str(identity.id),
            "iat": now,
            "exp": now + lifetime_s,
            "auth_time": int(signed_in),
            "preferred_username": identity.username,
            "name": identity.name,
            "email": identity.email,
            "organization": identity.organization,
        }
        return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._key_id})
