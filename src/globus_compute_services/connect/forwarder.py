# SPDX-License-Identifier: Apache-2.0
"""HTTP on the loopback, passed on over TLS to the site's services."""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from globus_compute_services.connect.tunnel import Tunnel
from globus_compute_services.problem import ExitStatus, Problem

__all__ = ["Forwarder"]

log = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_RESULT_QUEUE = "/v2/get_amqp_result_connection_url"
_OPENID = "/.well-known/openid-configuration"
# Of one connection, RFC 9110 7.6.1; and the host, which is another on the way out.
_HOP_BY_HOP = {
    *("connection", "host", "keep-alive", "proxy-authenticate", "proxy-authorization"),
    *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
}
_SECURE = re.compile(rb"; *secure(?=;|$)", re.IGNORECASE)
# A submit may wait for the broker; the SDK itself gives up after a minute.
_TIMEOUT = httpx.Timeout(connect=10, read=90, write=60, pool=None)
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)


class Forwarder:
    """The site's services at another URL, ``local``; answers which name places are adapted."""

    def __init__(self, remote: str, local: str, context: ssl.SSLContext, tunnel: Tunnel) -> None:
        self._remote = remote.rstrip("/")
        self._local = local.rstrip("/")
        self._tunnel = tunnel
        self._http = httpx.AsyncClient(verify=context, timeout=_TIMEOUT, limits=_LIMITS)
        self._http.headers.clear()  # what the SDK sends, and nothing else

    async def close(self) -> None:
        """Close the connections to the site."""
        await self._http.aclose()

    async def check(self) -> None:
        """Raises Problem unless there are services, and they are who they say."""
        url = f"{self._remote}/v2/version"
        try:
            answer = await self._http.get(url, params={"service": "all"})
            answer.json()["api"]
        except httpx.HTTPError as error:
            raise Problem(
                f"Cannot reach {self._remote}: {_reason(error)}",
                _hint(error),
                ExitStatus.UNAVAILABLE,
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(
                f"{url} does not answer like web services of Globus Compute",
                "is the URL right?",
                ExitStatus.UNAVAILABLE,
            ) from error

    def app(self) -> Starlette:
        """The web application which passes each request on."""
        return Starlette(routes=[Route("/{path:path}", self._handle, methods=_METHODS)])

    async def _handle(self, request: Request) -> Response:
        if self._is_misdirected(request):
            message = "this forwarder is for localhost only"
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "MISDIRECTED_REQUEST", message)
        path = request.url.path
        adapted = path in (_RESULT_QUEUE, _OPENID)
        outgoing = self._outgoing(request, readable=adapted)
        try:
            answer = await self._http.send(outgoing, stream=True)
            if adapted:
                await answer.aread()
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # which nobody reads
        except httpx.HTTPError as error:
            log.error("%s %s: %s", request.method, path, _reason(error))
            return self._failure(error)
        if not adapted:
            return self._streamed(answer)
        await answer.aclose()
        return self._adapted(path, answer)

    def _is_misdirected(self, request: Request) -> bool:
        """A browser may be led here by a name which a web site has pointed at the loopback.

        Its pages could then read what we answer, from a network that they cannot reach.
        """
        if urlsplit(self._local).hostname not in _LOOPBACK:
            return False
        try:
            return urlsplit(f"//{request.headers.get('host', '')}").hostname not in _LOOPBACK
        except ValueError:
            return True

    def _outgoing(self, request: Request, *, readable: bool) -> httpx.Request:
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name.decode("latin-1") not in _HOP_BY_HOP
        ]
        if readable:
            headers = [each for each in headers if each[0] != b"accept-encoding"]
        target = request.scope["raw_path"]
        if request.scope["query_string"]:
            target += b"?" + request.scope["query_string"]
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        return httpx.Request(
            request.method,
            httpx.URL(self._remote).copy_with(raw_path=target),
            headers=headers,
            content=request.stream() if has_body else None,
        )

    def _streamed(self, answer: httpx.Response) -> Response:
        response = StreamingResponse(_body(answer), answer.status_code)
        response.raw_headers = self._headers(answer)
        return response

    def _adapted(self, path: str, answer: httpx.Response) -> Response:
        body = answer.content
        if answer.is_success and path == _RESULT_QUEUE:
            document = answer.json()
            document["connection_url"] = self._tunnel.reroute(document["connection_url"])
            body = json.dumps(document).encode()
        elif answer.is_success:
            body = body.replace(self._remote.encode(), self._local.encode())
        response = Response(body, answer.status_code)
        length = (b"content-length", str(len(body)).encode())
        response.raw_headers = [
            *(each for each in self._headers(answer) if each[0] != length[0]),
            length,
        ]
        return response

    def _headers(self, answer: httpx.Response) -> list[tuple[bytes, bytes]]:
        """Those of the answer, such as they are right for a browser which came to ``local``."""
        return [
            (name.lower(), self._localized(name.lower(), value))
            for name, value in answer.headers.raw
            if name.lower().decode("latin-1") not in _HOP_BY_HOP
        ]

    def _localized(self, name: bytes, value: bytes) -> bytes:
        remote = self._remote.encode()
        if name == b"location" and value.startswith(remote):
            return self._local.encode() + value.removeprefix(remote)
        if name == b"set-cookie":  # not every browser takes a loopback for secure
            return _SECURE.sub(b"", value)
        return value

    def _failure(self, error: httpx.HTTPError) -> Response:
        late = isinstance(error, httpx.TimeoutException)
        status = HTTPStatus.GATEWAY_TIMEOUT if late else HTTPStatus.BAD_GATEWAY
        message = f"globus-compute-services connect cannot reach {self._remote}: {_reason(error)}"
        return _refusal(status, "SERVICES_UNREACHABLE", message)


def _refusal(status: HTTPStatus, code: str, message: str) -> Response:
    """As the services word theirs."""
    body = {"code": code, "message": message, "reason": message, "http_status_code": status.value}
    return JSONResponse(body, status)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes as they come; the connection is given back in the end."""
    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.HTTPError as error:
        log.error("%s: the answer broke off: %s", answer.request.url.path, _reason(error))
        raise
    finally:
        await answer.aclose()


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _reason(error: httpx.HTTPError) -> str:
    if refused := _certificate_error(error):
        return f"its certificate is not to be trusted: {refused.verify_message}"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer in time ({type(error).__name__})"
    return str(error) or type(error).__name__


def _hint(error: httpx.HTTPError) -> str:
    if _certificate_error(error):
        return "give the site's certification authority: --ca-file FILE"
    return "check the network and the URL"
