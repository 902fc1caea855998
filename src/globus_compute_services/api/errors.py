# SPDX-License-Identifier: Apache-2.0
"""Refusals: JSON with ``code``, ``message``, ``reason`` and ``http_status_code``, always."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from globus_compute_services.broker.management import ManagementRefused
from globus_compute_services.broker.rpc import BrokerDown, BrokerRefused

__all__ = [
    "EXCEPTION_HANDLERS",
    "ApiError",
    "bad_request",
    "conflict",
    "forbidden",
    "not_found",
    "unprocessable",
]

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request is refused. ``message`` is what the SDK shows: what, why, and what to do."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers

    def response(self) -> Response:
        body = {
            "code": self.code,
            "message": self.message,
            "reason": self.message,
            "http_status_code": int(self.status),
        }
        return JSONResponse(body, status_code=self.status, headers=self.headers)


def bad_request(message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, "MALFORMED_REQUEST", message)


def unprocessable(code: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, code, message)


def forbidden(message: str) -> ApiError:
    return ApiError(HTTPStatus.FORBIDDEN, "FORBIDDEN", message)


def not_found(code: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, code, message)


def conflict(code: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.CONFLICT, code, message)


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return ApiError(status, status.name, f"{status.phrase}: {error.detail}").response()


def _unavailable(_request: Request, error: Exception) -> Response:
    log.error("A request could not be served: %s", error)
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "SERVICE_UNAVAILABLE",
        "The services cannot reach RabbitMQ or their database at the moment; try again",
        {"Retry-After": "2"},
    ).response()


def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("A request failed", exc_info=error)
    return ApiError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "INTERNAL_ERROR",
        "The services failed on this request; the administrator finds the cause in their journal",
    ).response()


EXCEPTION_HANDLERS = {
    ApiError: _refused,
    HTTPException: _http,
    BrokerDown: _unavailable,
    BrokerRefused: _unavailable,
    ManagementRefused: _unavailable,
    OSError: _unavailable,
    OperationalError: _unavailable,
    InterfaceError: _unavailable,
    TimeoutError: _unavailable,
    Exception: _unexpected,
}
