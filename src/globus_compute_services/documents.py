# SPDX-License-Identifier: Apache-2.0
"""JSON from outside: what Python reads but databases and other readers do not take is refused."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["storable_document", "storable_text", "unicode_text"]

_LONGEST_DOCUMENT = 1024 * 1024


def storable_document(document: dict[str, Any]) -> dict[str, Any]:
    """Return ``document``; raises ValueError if it is not strict JSON, or too long."""
    try:
        size = len(json.dumps(document, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        raise ValueError("may only contain valid Unicode") from None
    if size > _LONGEST_DOCUMENT:
        raise ValueError(f"may take at most {_LONGEST_DOCUMENT} bytes")
    return document


def unicode_text(text: str) -> str:
    """Return ``text``; raises ValueError if it cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("may only contain valid Unicode") from None
    return text


def storable_text(text: str) -> str:
    """Return ``text``; raises ValueError if it cannot be encoded or contains NUL."""
    if "\0" in text:
        raise ValueError("may not contain NUL characters")
    return unicode_text(text)
