# SPDX-License-Identifier: Apache-2.0
"""All calls, and what answers them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from globus_compute_services.api import endpoints, functions, registration, submit, tasks
from globus_compute_services.api.answered import Turns
from globus_compute_services.api.context import Parts
from globus_compute_services.api.errors import EXCEPTION_HANDLERS
from globus_compute_services.auth import authorize, signin
from globus_compute_services.auth import tokens as sign_in_tokens

__all__ = ["make_app"]

Handler = Callable[[Request], Awaitable[Response]]

_CALLS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/v2/oauth2/authorize", authorize.show),
    ("POST", "/v2/oauth2/authorize", authorize.answer),
    ("GET", "/v2/web/auth-code", authorize.show_code),
    ("POST", "/v2/oauth2/token", sign_in_tokens.token),
    ("POST", "/v2/oauth2/token/introspect", sign_in_tokens.introspect),
    ("POST", "/v2/oauth2/token/revoke", sign_in_tokens.revoke),
    ("GET", "/v2/oauth2/userinfo", signin.userinfo),
    ("GET", "/v2/api/identities", signin.identities),
    ("GET", "/.well-known/openid-configuration", signin.openid_configuration),
    ("GET", "/jwk.json", signin.public_keys),
    ("POST", "/v3/endpoints", registration.register_endpoint),
    ("POST", "/v2/endpoints", registration.register_endpoint),
    ("PUT", "/v3/endpoints/{endpoint_id}", registration.update_endpoint),
    ("GET", "/v2/endpoints", endpoints.list_endpoints),
    ("GET", "/v2/endpoints/{endpoint_id}", endpoints.show_endpoint),
    ("GET", "/v2/endpoints/{endpoint_id}/status", endpoints.show_status),
    ("DELETE", "/v2/endpoints/{endpoint_id}", endpoints.delete_endpoint),
    ("POST", "/v2/endpoints/{endpoint_id}/lock", endpoints.lock_endpoint),
    ("POST", "/v3/endpoints/{endpoint_id}/lock", endpoints.lock_endpoint),
    ("GET", "/v3/endpoints/{endpoint_id}/allowed_functions", endpoints.show_allowed_functions),
    ("POST", "/v3/functions", functions.register_function),
    ("POST", "/v2/functions", functions.register_function),
    ("GET", "/v2/functions/{function_id}", functions.show_function),
    ("DELETE", "/v2/functions/{function_id}", functions.delete_function),
    ("POST", "/v3/endpoints/{endpoint_id}/submit", submit.submit),
    ("POST", "/v2/submit", submit.submit_v2),
    ("GET", "/v2/tasks/{task_id}", tasks.show_task),
    ("POST", "/v2/batch_status", tasks.batch_status),
    ("GET", "/v2/taskgroup/{group_id}", tasks.show_group),
    ("GET", "/v2/get_amqp_result_connection_url", tasks.result_connection),
)

_MINIMUM_VERSION = "3.0.0"


def make_app(parts: Parts) -> Starlette:
    """The web application over the running parts."""
    routes = [Route("/v2/version", _version, methods=["GET"])]
    routes += [Route(path, handler, methods=[method]) for method, path, handler in _CALLS]
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    app.state.parts = parts
    app.state.submit_turns = Turns()
    app.state.instances = {}
    return app


async def _version(request: Request) -> Response:
    """``GET /v2/version``: what is spoken here, and with whom."""
    own = _own_version()
    if request.query_params.get("service") != "all":
        return JSONResponse(own)
    return JSONResponse(
        {
            "api": own,
            "min_sdk_version": _MINIMUM_VERSION,
            "min_ep_version": _MINIMUM_VERSION,
            "min_endpoint_version": _MINIMUM_VERSION,
        }
    )


def _own_version() -> str:
    try:
        return version("globus-compute-endpoint")
    except PackageNotFoundError:
        return "5.0.0"
