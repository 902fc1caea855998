# SPDX-License-Identifier: Apache-2.0
"""Registering an endpoint with the web services.

The calls block, for up to a minute or so: an event loop makes them in a thread.
"""

from __future__ import annotations

import getpass
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import globus_sdk
from globus_compute_sdk.sdk._environments import get_web_service_url
from globus_compute_sdk.sdk.auth.globus_app import DEFAULT_CLIENT_ID
from globus_compute_sdk.sdk.auth.token_storage import get_token_storage
from globus_compute_sdk.sdk.utils.gare import gare_handler
from globus_compute_sdk.version import __version__ as sdk_version
from globus_sdk.token_storage import MemoryTokenStorage
from globus_sdk.transport import RequestsTransport, RetryConfig
from pydantic import BaseModel, ConfigDict, ValidationError

from globus_compute_endpoint import __version__
from globus_compute_endpoint.amqp.queue_info import QueueInfo, ResultQueueInfo
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = [
    "QueueInfo",
    "Registration",
    "RegistrationRequest",
    "ResultQueueInfo",
    "WebServices",
    "host_metadata",
]

_HTTP_TIMEOUT = 20.0  # seconds
_RETRIES = 1  # the callers have back-off of their own


class Registration(BaseModel):
    """The services' answer: who we are, and the queues which are ours."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    endpoint_id: UUID
    command_queue_info: QueueInfo | None = None
    task_queue_info: QueueInfo
    result_queue_info: ResultQueueInfo
    heartbeat_queue_info: ResultQueueInfo


@dataclass(frozen=True)
class RegistrationRequest:
    """What the services are told about an endpoint."""

    name: str
    config: CommonConfig
    multi_user: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the JSON body; what is not set is left out."""
        config = self.config
        body: dict[str, Any] = {
            "endpoint_name": self.name,
            "display_name": config.display_name,
            "multi_user": self.multi_user or None,
            "metadata": host_metadata() | self.metadata,
            "allowed_functions": [str(each) for each in config.allowed_functions or ()] or None,
            "authentication_policy": _text(config.authentication_policy),
            "subscription_uuid": _text(config.subscription_id),
            "public": config.public,
            "high_assurance": config.high_assurance,
            "admins": [str(each) for each in config.admins or ()] or None,
        }
        return {key: value for key, value in body.items() if value is not None}


class WebServices:
    """The web services which a configuration names, and our credentials for them.

    The credentials are those of ``GLOBUS_COMPUTE_CLIENT_ID`` and
    ``GLOBUS_COMPUTE_CLIENT_SECRET``, else of the login which the SDK has stored; where there is
    none, the user is asked to log in on the terminal.
    """

    def __init__(self, config: CommonConfig) -> None:
        environment = "local" if config.local_compute_services else config.environment
        services = config.services
        self.compute_url = str(services.compute_url or get_web_service_url(environment))
        ca_file = str(services.ca_file) if services.ca_file else None
        self._app = _app(config.environment, _text(services.auth_url), ca_file)
        options: dict[str, Any] = {
            "base_url": self.compute_url,
            "app": self._app,
            "app_name": f"globus-compute-endpoint/{__version__}",
            "transport": RequestsTransport(verify_ssl=ca_file, http_timeout=_HTTP_TIMEOUT),
            "retry_config": RetryConfig(max_retries=_RETRIES),
        }
        self._client = globus_sdk.ComputeClientV3(**options)
        self._client_v2 = globus_sdk.ComputeClientV2(**options)
        del options["base_url"]
        if services.auth_url:
            options["base_url"] = str(services.auth_url)
        self._auth = globus_sdk.AuthClient(**options)

    def register(self, request: RegistrationRequest, endpoint_id: UUID | None) -> Registration:
        """Register, or register anew where ``endpoint_id`` is known.

        Raises:
            Problem: refused (DATA, UNAVAILABLE, NO_PERMISSION), or out of reach (TEMPORARY).
        """
        body = request.body()

        def call() -> Any:
            if endpoint_id is None:
                return self._client.register_endpoint(body)
            return self._client.update_endpoint(endpoint_id, body)

        return _registration(self._answer(call).data, endpoint_id)

    def delete(self, endpoint_id: UUID) -> None:
        """Have the services forget an endpoint; that they do not know it is as well.

        Raises:
            Problem: refused (UNAVAILABLE, NO_PERMISSION), or out of reach (TEMPORARY).
        """
        try:
            self._answer(lambda: self._client_v2.delete_endpoint(endpoint_id))
        except Problem as problem:
            if problem.code != "ENDPOINT_NOT_FOUND":
                raise

    def userinfo(self) -> dict[str, Any]:
        """Return who we are to the sign-in service: ``sub``, ``identity_set`` and more.

        Raises:
            Problem: refused (NO_PERMISSION, UNAVAILABLE), or out of reach (TEMPORARY).
        """
        return dict(self._answer(self._auth.userinfo).data)

    def _answer(self, call: Callable[[], Any]) -> Any:
        """Make a call, after a login if that is what it takes."""
        try:
            return gare_handler(self._app.login, call)
        except globus_sdk.GlobusAPIError as error:
            raise _refusal(error) from error
        except (globus_sdk.NetworkError, OSError) as error:
            raise self._out_of_reach(error) from error
        except (globus_sdk.GlobusError, EOFError) as error:
            raise Problem(
                "LOGIN_FAILED",
                f"cannot log in: {error}",
                "set GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET, or log in on"
                " a terminal",
                ExitStatus.NO_PERMISSION,
            ) from error

    def _out_of_reach(self, error: Exception) -> Problem:
        cause = getattr(error, "underlying_exception", None) or error
        return Problem(
            "SERVICES_UNREACHABLE",
            f"cannot reach the web services at {self.compute_url}: {cause}",
            "check the network and the address of the services",
            ExitStatus.TEMPORARY,
        )


def host_metadata() -> dict[str, Any]:
    """Return what the services show about where an endpoint runs."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a passwd entry
        user = str(os.getuid())
    return {
        "endpoint_version": __version__,
        "python_version": platform.python_version(),
        "sdk_version": sdk_version,
        "hostname": socket.getfqdn() or socket.gethostname(),
        "local_user": user,
    }


def _app(
    environment: str | None, auth_url: str | None, ca_file: str | None
) -> globus_sdk.GlobusApp:
    client_id = os.environ.get("GLOBUS_COMPUTE_CLIENT_ID")
    secret = os.environ.get("GLOBUS_COMPUTE_CLIENT_SECRET")
    if secret and not client_id:
        raise Problem(
            "CLIENT_ID_MISSING",
            "GLOBUS_COMPUTE_CLIENT_SECRET is set, but GLOBUS_COMPUTE_CLIENT_ID is not",
            "set both, or neither to log in as a person",
            ExitStatus.CONFIGURATION,
        )
    login: dict[str, Any] = {
        "environment": environment,
        "base_url": auth_url,
        "transport": RequestsTransport(verify_ssl=ca_file, http_timeout=_HTTP_TIMEOUT),
        "retry_config": RetryConfig(max_retries=_RETRIES),
    }
    login = {key: value for key, value in login.items() if value is not None}
    name = platform.node()
    if client_id and secret:
        # Such tokens can be had again at any time: no need to leave them on a disk.
        config = _app_config(MemoryTokenStorage(), environment)
        client = globus_sdk.ConfidentialAppAuthClient(client_id, secret, **login)
        return globus_sdk.ClientApp(name, login_client=client, config=config)
    config = _app_config(get_token_storage(environment), environment)
    native = globus_sdk.NativeAppAuthClient(client_id or DEFAULT_CLIENT_ID, **login)
    return globus_sdk.UserApp(name, login_client=native, config=config)


def _app_config(storage: Any, environment: str | None) -> globus_sdk.GlobusAppConfig:
    settings: dict[str, Any] = {"token_storage": storage, "request_refresh_tokens": True}
    if environment is not None:
        settings["environment"] = environment
    return globus_sdk.GlobusAppConfig(**settings)


def _registration(data: Any, asked: UUID | None) -> Registration:
    try:
        registration = Registration.model_validate(data)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise Problem(
            "REGISTRATION_MALFORMED",
            f"the web services' answer to the registration lacks or garbles: {fields}",
            "are these the right services, of a version that fits?",
            ExitStatus.UNAVAILABLE,
        ) from None  # the error's text holds the answer, passwords and all
    if asked is not None and registration.endpoint_id != asked:
        raise Problem(
            "REGISTRATION_MISMATCH",
            f"registered endpoint {asked}, but the web services answered with"
            f" {registration.endpoint_id}",
            "remove endpoint.json to register as a new endpoint",
            ExitStatus.UNAVAILABLE,
        )
    return registration


def _refusal(error: globus_sdk.GlobusAPIError) -> Problem:
    status = error.http_status
    text = error.message or error.code or "no reason given"
    code, hint, exit_status = _REFUSALS.get(status, _OTHER_REFUSAL)
    if status == 429 or status >= 500:
        code, hint, exit_status = _UNWELL
    return Problem(
        code,
        f"the web services refused ({status}): {text}",
        hint,
        exit_status,
    )


_OTHER_REFUSAL = (
    "REGISTRATION_REFUSED",
    "correct what the message names",
    ExitStatus.DATA,
)
_UNWELL = ("SERVICES_UNWELL", "it is tried again", ExitStatus.TEMPORARY)
_NOT_ALLOWED = (
    "REGISTRATION_NOT_ALLOWED",
    "register with the identity which owns the endpoint",
    ExitStatus.NO_PERMISSION,
)
_REFUSALS = {
    401: _NOT_ALLOWED,
    403: _NOT_ALLOWED,
    404: (
        "ENDPOINT_NOT_FOUND",
        "remove endpoint.json to register as a new endpoint",
        ExitStatus.UNAVAILABLE,
    ),
    409: (
        "ENDPOINT_RUNS_ELSEWHERE",
        "stop the other instance first",
        ExitStatus.UNAVAILABLE,
    ),
    423: (
        "ENDPOINT_LOCKED",
        "it was stopped remotely: wait until the lock expires",
        ExitStatus.UNAVAILABLE,
    ),
}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
