# SPDX-License-Identifier: Apache-2.0
"""The pages which people see: plain HTML which needs no script."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from http import HTTPStatus
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

__all__ = ["page"]

_PAGES = Environment(
    loader=PackageLoader("globus_compute_services", "auth/pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_STYLE = _PAGES.get_template("style.css").render()
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def page(name: str, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Response:
    """The page of that name, filled in. Values are text: the template escapes them."""
    text = _PAGES.get_template(f"{name}.html").render(style=_STYLE, **values)
    return HTMLResponse(text, status, _HEADERS)
