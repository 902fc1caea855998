# SPDX-License-Identifier: Apache-2.0
"""Making, deriving and comparing secrets.

None is stored in a form that could be used, but for the key which signs id tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

__all__ = [
    "derive_password",
    "hash_secret",
    "new_secret",
    "new_signing_key",
    "token_digest",
    "verify_secret",
]

_RSA_BITS = 2048


def new_secret() -> str:
    """A fresh secret of 256 random bits, safe in URLs and shells."""
    return secrets.token_urlsafe(32)


def new_signing_key() -> str:
    """A fresh RSA private key, in PEM. Takes some 100 ms."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def hash_secret(secret: str) -> str:
    """The form in which a client's secret is kept: ``scrypt$<salt>$<hash>``. Takes some 50 ms."""
    salt = os.urandom(16)
    digest = hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1)
    return f"scrypt${_text(salt)}${_text(digest)}"


def verify_secret(secret: str, stored: str) -> bool:
    """Whether ``secret`` is the one of which ``stored`` was made. Takes some 50 ms."""
    _, salt, digest = stored.split("$")
    made = hashlib.scrypt(secret.encode(), salt=base64.b64decode(salt), n=2**14, r=8, p=1)
    return hmac.compare_digest(made, base64.b64decode(digest))


def token_digest(token: str) -> str:
    """The form in which a token is kept. Tokens are long and random, so a plain hash will do."""
    return hashlib.sha256(token.encode()).hexdigest()


def derive_password(key: str, account: str, generation: int) -> str:
    """The broker password of ``account``.

    Derived and not stored, so that each start command can repeat the password of a running user
    endpoint; a new ``generation`` makes the old one useless.
    """
    digest = hmac.digest(key.encode(), f"{account}\n{generation}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
