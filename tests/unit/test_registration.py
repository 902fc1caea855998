# SPDX-License-Identifier: Apache-2.0
"""Registration against a small HTTP server which answers as the services would."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

import pytest

from globus_compute_endpoint.config.common import CommonConfig
from globus_compute_endpoint.problem import ExitStatus, Problem
from globus_compute_endpoint.registration import RegistrationRequest, WebServices

ENDPOINT = UUID("7b7c6cc1-67a3-4c2c-a4e2-0a8c8b0f8f7d")
URL = "amqp://user:s3cret@mq.example:5672/%2F"


def queues(endpoint: UUID) -> dict[str, Any]:
    publish = {"exchange": "results", "routing_key": f"{endpoint}.results", "mandatory": True}
    return {
        "endpoint_id": str(endpoint),
        "task_queue_info": {"connection_url": URL, "queue": f"{endpoint}.tasks"},
        "result_queue_info": {"connection_url": URL, "queue_publish_kwargs": publish},
        "heartbeat_queue_info": {"connection_url": URL, "queue_publish_kwargs": publish},
    }


class Services(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.answer: tuple[int, dict[str, Any]] = (200, queues(ENDPOINT))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Services

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v2/oauth2/token":
            token = {
                "access_token": "t",
                "scope": "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all",
                "resource_server": "funcx_service",
                "expires_in": 3600,
                "token_type": "bearer",
                "other_tokens": [],
            }
            return self.reply(200, token)
        self.server.requests.append((self.command, self.path, json.loads(body)))
        return self.reply(*self.server.answer)

    do_PUT = do_POST

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", str(uuid4()))
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", "secret")
    server = Services()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def configured(services: Services, **more: Any) -> CommonConfig:
    urls = {"compute_url": services.url, "auth_url": services.url}
    return CommonConfig.model_validate({"services": urls, **more})


def test_first_a_post_with_what_is_set(services: Services):
    config = configured(services, display_name="Mine", public=True)
    request = RegistrationRequest("mine", config, metadata={"endpoint_config": "x: 1"})
    registration = WebServices(config).register(request, None)
    assert registration.endpoint_id == ENDPOINT
    assert registration.task_queue_info.queue == f"{ENDPOINT}.tasks"
    method, path, body = services.requests[0]
    assert (method, path) == ("POST", "/v3/endpoints")
    assert body["endpoint_name"] == "mine"
    assert body["display_name"] == "Mine"
    assert body["public"] is True
    assert "multi_user" not in body
    assert body["metadata"]["endpoint_config"] == "x: 1"
    assert body["metadata"]["hostname"]


def test_then_a_put_with_the_same_id(services: Services):
    config = configured(services)
    request = RegistrationRequest("mine", config, multi_user=True)
    WebServices(config).register(request, ENDPOINT)
    method, path, body = services.requests[0]
    assert (method, path) == ("PUT", f"/v3/endpoints/{ENDPOINT}")
    assert body["multi_user"] is True


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [
        (400, ExitStatus.DATA),
        (422, ExitStatus.DATA),
        (403, ExitStatus.NO_PERMISSION),
        (404, ExitStatus.UNAVAILABLE),
        (409, ExitStatus.UNAVAILABLE),
        (423, ExitStatus.UNAVAILABLE),
        (500, ExitStatus.TEMPORARY),
    ],
)
def test_a_refusal_is_told_in_the_services_words(
    services: Services, status: int, exit_status: ExitStatus
):
    services.answer = (status, {"code": "NO", "message": "because of the moon"})
    config = configured(services)
    with pytest.raises(Problem, match="because of the moon") as caught:
        WebServices(config).register(RegistrationRequest("mine", config), None)
    assert caught.value.exit_status is exit_status


def test_another_id_than_asked_for_is_refused(services: Services):
    config = configured(services)
    with pytest.raises(Problem) as caught:
        WebServices(config).register(RegistrationRequest("mine", config), uuid4())
    assert caught.value.code == "REGISTRATION_MISMATCH"


def test_a_garbled_answer_is_told_without_its_passwords(services: Services):
    answer = queues(ENDPOINT)
    del answer["heartbeat_queue_info"]
    services.answer = (200, answer)
    config = configured(services)
    with pytest.raises(Problem, match="heartbeat_queue_info") as caught:
        WebServices(config).register(RegistrationRequest("mine", config), None)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_there_is_temporary(services: Services):
    config = configured(services)
    services.shutdown()
    services.server_close()
    with pytest.raises(Problem, match="cannot reach") as caught:
        WebServices(config).register(RegistrationRequest("mine", config), None)
    assert caught.value.exit_status is ExitStatus.TEMPORARY
