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
from uuid import UUID, uuid4

import globus_sdk
from globus_compute_sdk.sdk._environments import get_web_service_url
from globus_compute_sdk.sdk.utils.gare import gare_handler
from globus_compute_sdk.version import __version__ as sdk_version
from globus_sdk.gare import GlobusAuthorizationParameters
from globus_sdk.scopes import AuthScopes
from globus_sdk.transport import RequestsTransport, RetryConfig
from pydantic import BaseModel, ConfigDict, ValidationError

from globus_compute_endpoint import __version__
from globus_compute_endpoint.amqp.queue_info import QueueInfo, ResultQueueInfo
from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.credentials import (
    HTTP_TIMEOUT_S,
    RETRIES,
    app_for,
    log_in,
    login_problem,
    require_login,
)
from globus_compute_endpoint.problem import ExitStatus, Problem

__all__ = [
    "QueueInfo",
    "Registration",
    "RegistrationRequest",
    "ResultQueueInfo",
    "UserInfo",
    "WebServices",
    "host_metadata",
]


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
    """What the services are told about an endpoint.

    ``instance`` is the run of it which registers; in a ``renewal`` it asks for fresh credentials.
    Services may refuse that to an instance after which another one has registered.
    """

    name: str
    config: CommonConfig
    multi_user: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    instance: UUID = field(default_factory=uuid4)
    renewal: bool = False

    def body(self) -> dict[str, Any]:
        """Return the JSON body; what is not set is left out."""
        config = self.config
        body: dict[str, Any] = {
            "endpoint_name": self.name,
            "display_name": config.display_name,
            "multi_user": self.multi_user or None,
            "metadata": {
                **host_metadata(),
                **self.metadata,
                "instance": str(self.instance),
                "renewal": self.renewal,
            },
            "allowed_functions": [str(each) for each in config.allowed_functions or ()] or None,
            "authentication_policy": _text(config.authentication_policy),
            "subscription_uuid": _text(config.subscription_id),
            "public": config.public,
            "high_assurance": config.high_assurance,
            "admins": [str(each) for each in config.admins or ()] or None,
        }
        return {key: value for key, value in body.items() if value is not None}


class LinkedIdentity(BaseModel):
    """One of the identities of a person."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    sub: UUID
    username: str | None = None
    name: str | None = None
    email: str | None = None


class UserInfo(BaseModel):
    """Who someone is; without the scopes ``profile`` and ``email`` only their id is sure."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    sub: UUID
    preferred_username: str | None = None
    name: str | None = None
    email: str | None = None
    identity_set: tuple[LinkedIdentity, ...] = ()

    @property
    def identities(self) -> frozenset[UUID]:
        """The identity which has logged in, and those linked to it."""
        return frozenset({self.sub, *(each.sub for each in self.identity_set)})


class WebServices:
    """The web services which a configuration names, and our credentials for them.

    The credentials are those of ``app``, by default of :func:`credentials.app_for`; where there is
    no login, the user is asked to log in on the terminal.
    """

    def __init__(self, config: CommonConfig, app: globus_sdk.GlobusApp | None = None) -> None:
        environment = "local" if config.local_compute_services else config.environment
        services = config.services
        self.compute_url = str(services.compute_url or get_web_service_url(environment))
        ca_file = str(services.ca_file) if services.ca_file else None
        self._auth_url = _text(services.auth_url)
        self._app = app or app_for(config)
        options: dict[str, Any] = {
            "base_url": self.compute_url,
            "app": self._app,
            "app_name": f"globus-compute-endpoint/{__version__}",
            "transport": RequestsTransport(verify_ssl=ca_file, http_timeout=HTTP_TIMEOUT_S),
            "retry_config": RetryConfig(max_retries=RETRIES),
        }
        self._client = globus_sdk.ComputeClientV3(**options)
        self._client_v2 = globus_sdk.ComputeClientV2(**options)
        # Each login has the scope openid, and a stored one need not have more.
        options |= {"base_url": self._auth_url, "app_scopes": [AuthScopes.openid]}
        self._auth = globus_sdk.AuthClient(
            **{key: value for key, value in options.items() if value is not None}
        )

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

        return _registration(self._answer(call, request.name).data, endpoint_id)

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

    def require_known(self, endpoint_id: UUID, name: str = "") -> None:
        """See that the services know an endpoint, and show it to us.

        Raises:
            Problem: they do not (UNAVAILABLE, NO_PERMISSION), or are out of reach (TEMPORARY).
        """
        self._answer(lambda: self._client_v2.get_endpoint(endpoint_id), name)

    def userinfo(self, name: str = "") -> UserInfo:
        """Ask who we are to the services, for the endpoint ``name``.

        Raises:
            Problem: refused (NO_PERMISSION), or out of reach (TEMPORARY).
        """
        try:
            return UserInfo.model_validate(self._answer(self._auth.userinfo, name).data)
        except ValidationError as error:
            raise Problem(
                "USERINFO_MALFORMED",
                f"the web services garble who we are: {error.error_count()} errors",
                "are these the right services, of a version that fits?",
                ExitStatus.UNAVAILABLE,
            ) from error

    def _answer(self, call: Callable[[], Any], name: str = "") -> Any:
        """Make a call for the endpoint ``name``, after a login if that is what it takes."""

        def login(*, auth_params: GlobusAuthorizationParameters) -> None:
            log_in(self._app, name, auth_params)

        try:
            require_login(self._app, name)
            return gare_handler(login, call)
        except globus_sdk.AuthAPIError as error:
            raise login_problem(error, name) from error
        except globus_sdk.GlobusAPIError as error:
            raise _refusal(error) from error
        except (globus_sdk.GlobusError, OSError) as error:
            raise login_problem(error, name) from error


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
_UNWELL = (
    "SERVICES_UNWELL",
    "try again in a while; what runs as a service does so itself",
    ExitStatus.TEMPORARY,
)
_NOT_ALLOWED = (
    "REGISTRATION_NOT_ALLOWED",
    "use the identity which owns the endpoint (globus-compute-endpoint whoami tells yours), or"
    " configure a new one",
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
