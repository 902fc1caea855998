# SPDX-License-Identifier: Apache-2.0
"""Taking secrets out of text which people will send to others."""

from __future__ import annotations

import os
import re

__all__ = ["redact", "without_values"]

_GONE = "<removed>"
_CONFIDENTIAL = (
    r"[\w.-]*(?:secret|passw(?:or)?d|token|api_?key|private_?key|authorization|credential)[\w.-]*"
)
# user:password@ in a URL
_IN_URL = re.compile(r"(?<=://)[^\s@'\"]*:[^\s@'\"]*(?=@)")
# Authorization: Bearer …, wherever that was printed
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)
# name: value and "name": "value" and NAME=value, quoted or up to where the next one could begin
_ASSIGNED = re.compile(
    rf"(?P<name>\b{_CONFIDENTIAL}[\"']?\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,}\]]+)",
    re.IGNORECASE,
)
# name: | and its block, which is indented more deeply
_BLOCK = re.compile(
    rf"^(?P<head>(?P<indent>[ ]*)[\"']?{_CONFIDENTIAL}[\"']?\s*:\s*)[|>][^\n]*\n"
    r"(?:(?P=indent)[ ]+[^\n]*(?:\n|\Z)|[ ]*\n)+",
    re.IGNORECASE | re.MULTILINE,
)
# NAME=value and name: value, also where that has been commented out
_VALUE = re.compile(r"^([ ]*(?:#[ ]*)?(?:export )?[A-Za-z_]\w*[ ]*[:=])[ ]*\S[^\n]*$", re.MULTILINE)


def redact(text: str) -> str:
    """Return text without passwords in URLs, and without what is assigned to a secret's name."""
    for name, value in os.environ.items():
        if len(value) >= 8 and re.fullmatch(_CONFIDENTIAL, name, re.IGNORECASE):
            text = text.replace(value, _GONE)
    text = _IN_URL.sub(_GONE, text)
    text = _BLOCK.sub(rf"\g<head>{_GONE}\n", text)
    text = _BEARER.sub(rf"\1 {_GONE}", text)
    return _ASSIGNED.sub(rf"\g<name>{_GONE}", text)


def without_values(text: str) -> str:
    """Return an environment file's names without any of its values."""
    return _VALUE.sub(rf"\1 {_GONE}", text)
