# SPDX-License-Identifier: Apache-2.0
"""Who we are to the web services: a client identity, or the stored login of a person.

``GLOBUS_COMPUTE_CLIENT_ID`` with ``GLOBUS_COMPUTE_CLIENT_SECRET`` comes before a stored login. Both
are the SDK's own apps, which keep their tokens where the SDK looks for them.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import globus_sdk
from globus_compute_sdk.sdk.auth.globus_app import DEFAULT_CLIENT_ID
from globus_compute_sdk.sdk.auth.token_storage import get_token_storage
from globus_compute_sdk.sdk.compute_dir import ensure_compute_dir
from globus_sdk.config import get_service_url
from globus_sdk.gare import GlobusAuthorizationParameters
from globus_sdk.token_storage import MemoryTokenStorage, SQLiteTokenStorage, TokenStorage
from globus_sdk.token_storage.validating_token_storage import (
    IdentityMismatchError,
    TokenValidationError,
)
from globus_sdk.transport import RequestsTransport, RetryConfig

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = [
    "HTTP_TIMEOUT_S",
    "RETRIES",
    "app_for",
    "has_client_identity",
    "log_in",
    "login_problem",
    "require_login",
    "user_app",
]

HTTP_TIMEOUT_S = 20.0
RETRIES = 1  # the callers have back-off of their own
# A person is asked once for what shows who they are, too; stored logins need not have it.
_ASKED_TOO = ("profile", "email")


def app_for(config: CommonConfig, *, storage: Path | None = None) -> globus_sdk.GlobusApp:
    """The client identity of the environment, else the login stored for these services.

    ``storage`` is a file to be used instead of the SDK's ``storage.db``. Raises Problem.
    """
    if not has_client_identity():
        return user_app(config, storage=storage)
    _usual_sign_in(config.environment)
    client = globus_sdk.ConfidentialAppAuthClient(
        os.environ["GLOBUS_COMPUTE_CLIENT_ID"],
        os.environ["GLOBUS_COMPUTE_CLIENT_SECRET"],
        **_login_options(config),
    )
    # Such tokens can be had again at any time: no need to leave them on a disk.
    return globus_sdk.ClientApp(
        platform.node(), login_client=client, config=_app_config(config, MemoryTokenStorage())
    )


def user_app(config: CommonConfig, *, storage: Path | None = None) -> globus_sdk.UserApp:
    """The login stored for these services, whatever the environment says. Raises Problem."""
    usual = _usual_sign_in(config.environment)
    client_id = os.environ.get("GLOBUS_COMPUTE_CLIENT_ID")
    if has_client_identity():
        client_id = None
    native = globus_sdk.NativeAppAuthClient(
        client_id or DEFAULT_CLIENT_ID, **_login_options(config)
    )
    try:
        tokens = _token_storage(config, usual, storage)
    except (sqlite3.Error, OSError) as error:
        raise Problem(
            "STORAGE_UNUSABLE",
            f"cannot use the stored login in {storage or ensure_compute_dir() / 'storage.db'}:"
            f" {error}",
            "check who owns the file; remove it to log in anew",
            ExitStatus.NO_PERMISSION,
        ) from error
    return globus_sdk.UserApp(
        platform.node(), login_client=native, config=_app_config(config, tokens)
    )


def has_client_identity() -> bool:
    """Whether the environment names a client identity; raises Problem if only half of one."""
    client_id = os.environ.get("GLOBUS_COMPUTE_CLIENT_ID")
    secret = os.environ.get("GLOBUS_COMPUTE_CLIENT_SECRET")
    if secret and not client_id:
        raise Problem(
            "CLIENT_ID_MISSING",
            "GLOBUS_COMPUTE_CLIENT_SECRET is set, but GLOBUS_COMPUTE_CLIENT_ID is not",
            "set both, or neither to log in as a person",
            ExitStatus.CONFIGURATION,
        )
    return bool(client_id and secret)


def require_login(app: globus_sdk.GlobusApp, name: str = "") -> None:
    """Have someone log in where no stored login will do; see :func:`log_in`."""
    if isinstance(app, globus_sdk.UserApp) and app.login_required():
        log_in(app, name)


def log_in(
    app: globus_sdk.GlobusApp,
    name: str = "",
    auth_params: GlobusAuthorizationParameters | None = None,
) -> None:
    """Print the link to the sign-in page, and take the code. ``name``: which endpoint it is for.

    Raises Problem if there is no terminal to do that on; globus_sdk.GlobusError if it fails.
    """
    asked = auth_params or GlobusAuthorizationParameters(required_scopes=list(_ASKED_TOO))
    if isinstance(app, globus_sdk.UserApp) and not sys.stdin.isatty():
        raise _not_logged_in(name)
    app.login(auth_params=asked)


def login_problem(error: Exception, name: str = "") -> Problem:
    """What the SDK's or the network's ``error`` at a login, or for want of one, means."""
    match error:
        case globus_sdk.AuthAPIError():
            return _refused(error, name)
        case globus_sdk.NetworkError() | OSError() if not isinstance(error, EOFError):
            return _out_of_reach(error)
        case IdentityMismatchError():
            return Problem(
                "OTHER_IDENTITY",
                "the stored login is of another identity than the one which has just signed in",
                f"to change, log out first: {_command('logout', name)}",
                ExitStatus.NO_PERMISSION,
            )
        case TokenValidationError():
            return _not_logged_in(name)
    return Problem(
        "LOGIN_FAILED",
        f"cannot log in: {error}",
        f"try again: {_command('login', name)}",
        ExitStatus.NO_PERMISSION,
    )


def _not_logged_in(name: str) -> Problem:
    return Problem(
        "NOT_LOGGED_IN",
        "nobody is logged in to the web services, and there is no terminal to log in on",
        f"log in on one with `{_command('login', name)}`, or set GLOBUS_COMPUTE_CLIENT_ID and"
        " GLOBUS_COMPUTE_CLIENT_SECRET",
        ExitStatus.NO_PERMISSION,
    )


def _refused(error: globus_sdk.AuthAPIError, name: str) -> Problem:
    text = error.message or error.code or "no reason given"
    if error.http_status == 429 or error.http_status >= 500:
        return Problem(
            "SIGN_IN_UNWELL", f"sign-in failed: {text}", "try again", ExitStatus.TEMPORARY
        )
    if has_client_identity():
        return Problem(
            "CLIENT_REFUSED",
            f"the client identity {os.environ['GLOBUS_COMPUTE_CLIENT_ID']} was refused: {text}",
            "check GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET",
            ExitStatus.NO_PERMISSION,
        )
    return Problem(
        "LOGIN_REFUSED",
        f"the login was refused: {text}",
        f"log in again: {_command('login --force', name)}",
        ExitStatus.NO_PERMISSION,
    )


def _out_of_reach(error: Exception) -> Problem:
    cause = getattr(error, "underlying_exception", None) or error
    url = urlsplit(str(getattr(getattr(cause, "request", None), "url", "")))
    where = f" at {url.scheme}://{url.netloc}" if url.netloc else ""
    return Problem(
        "SERVICES_UNREACHABLE",
        f"cannot reach the web services{where}: {cause}",
        "check the network and the address of the services",
        ExitStatus.TEMPORARY,
    )


def _command(command: str, name: str) -> str:
    return f"globus-compute-endpoint {command} {name}".rstrip()


def _login_options(config: CommonConfig) -> dict[str, Any]:
    services = config.services
    ca_file = str(services.ca_file) if services.ca_file else None
    options: dict[str, Any] = {
        "environment": config.environment,
        "base_url": str(services.auth_url) if services.auth_url else None,
        "transport": RequestsTransport(verify_ssl=ca_file, http_timeout=HTTP_TIMEOUT_S),
        "retry_config": RetryConfig(max_retries=RETRIES),
    }
    return {key: value for key, value in options.items() if value is not None}


def _app_config(config: CommonConfig, storage: TokenStorage) -> globus_sdk.GlobusAppConfig:
    settings: dict[str, Any] = {
        "token_storage": storage,
        "request_refresh_tokens": True,
        # Nobody is asked to log in but by log_in().
        "token_validation_error_handler": None,
    }
    if config.environment is not None:
        settings["environment"] = config.environment
    return globus_sdk.GlobusAppConfig(**settings)


def _usual_sign_in(environment: str | None) -> str:
    """Where the SDK would sign in; raises Problem if it does not know the environment."""
    try:
        return get_service_url("auth", environment)
    except ValueError as error:
        raise Problem(
            "ENVIRONMENT_UNKNOWN",
            f"nobody knows where to sign in: {error}",
            "set GLOBUS_SDK_SERVICE_URL_AUTH to the URL of your services, or correct"
            " GLOBUS_SDK_ENVIRONMENT (in config.yaml: environment)",
            ExitStatus.CONFIGURATION,
        ) from error


def _token_storage(config: CommonConfig, usual: str, path: Path | None) -> TokenStorage:
    """The SDK's own, unless sign-in is elsewhere: tokens must not go to whom they are not for."""
    auth_url = str(config.services.auth_url or usual)
    if path is None and auth_url.rstrip("/") == usual.rstrip("/"):
        return get_token_storage(config.environment)
    return SQLiteTokenStorage(
        path or ensure_compute_dir() / "storage.db",
        namespace=f"user/{auth_url}",
        # event loops make their calls in threads
        connect_params={"check_same_thread": False},
    )
