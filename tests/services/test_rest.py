# SPDX-License-Identifier: Apache-2.0
"""What is refused, with which status and in which words; and who may see and change what."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pika
import pytest

from services.harness import URL, Researcher, Services, connected, payload

NOBODY = str(uuid.uuid4())


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/endpoints"), ("POST", "/v3/functions"), ("GET", f"/v2/tasks/{NOBODY}")],
)
@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Basic eDp5"])
def test_without_a_token(
    services: Services, method: str, path: str, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = httpx.request(method, f"{URL}{path}", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == "UNAUTHENTICATED"


def test_sign_in_with_a_wrong_secret(alice: Researcher) -> None:
    answer = httpx.post(
        f"{URL}/v2/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(alice.client["client_id"], "wrong"),
    )
    assert answer.status_code == 401
    assert answer.json()["error"] == "invalid_client"


@pytest.mark.parametrize(
    "form", [b"", b"\xff", b"&".join(b"a=b" for _ in range(100)), b"a" * 100_000, b"grant_type=x"]
)
def test_sign_in_with_a_strange_form(alice: Researcher, form: bytes) -> None:
    credentials = (alice.client["client_id"], alice.client["client_secret"])
    answer = httpx.post(f"{URL}/v2/oauth2/token", content=form, auth=credentials)
    assert answer.status_code in (400, 413)
    assert answer.json()["message"]


def test_tokens_tell_who_and_can_be_revoked(alice: Researcher) -> None:
    credentials = (alice.client["client_id"], alice.client["client_secret"])
    tokens = httpx.post(
        f"{URL}/v2/oauth2/token",
        data={"grant_type": "client_credentials", "scope": "openid profile email"},
        auth=credentials,
    ).json()
    assert (tokens["resource_server"], tokens["other_tokens"]) == ("auth.globus.org", [])
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    info = httpx.get(f"{URL}/v2/oauth2/userinfo", headers=bearer).json()
    assert info["sub"] == alice.identity
    assert [each["sub"] for each in info["identity_set"]] == [alice.identity]
    found = httpx.get(f"{URL}/v2/api/identities?ids={alice.identity}", headers=bearer).json()
    assert found["identities"][0]["username"] == alice.client["username"]
    # A token for one resource server is none for the other.
    assert httpx.get(f"{URL}/v2/endpoints", headers=bearer).status_code == 401

    form = {"token": tokens["access_token"]}
    introspection = f"{URL}/v2/oauth2/token/introspect"
    assert httpx.post(introspection, data=form, auth=credentials).json()["sub"] == alice.identity
    httpx.post(f"{URL}/v2/oauth2/token/revoke", data=form, auth=credentials)
    assert httpx.post(introspection, data=form, auth=credentials).json() == {"active": False}


def test_version_needs_no_token(services: Services) -> None:
    answer = httpx.get(f"{URL}/v2/version?service=all").json()
    assert {"api", "min_sdk_version", "min_ep_version"} <= set(answer)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN'])
def test_what_is_not_json(alice: Researcher, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}
    answer = httpx.post(f"{URL}/v3/functions", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert "JSON" in answer.json()["message"]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "function_name"),
        ([], "the request"),
        ({"function_name": "f"}, "function_code"),
        ({"function_name": 1, "function_code": "x"}, "function_name"),
        ({"function_name": "f", "function_code": "x", "group": "friends"}, "group"),
        ({"function_name": "f\0", "function_code": "x"}, "function_name"),
        ({"function_name": "f", "function_code": "x", "meta": {"a": float("nan")}}, "meta"),
        ({"function_name": "f", "function_code": "x", "meta": {"a": "\ud800"}}, "meta"),
        ({"function_name": "\ud800", "function_code": "x"}, "function_name"),
    ],
)
def test_a_wrong_field_is_named(alice: Researcher, document: Any, field: str) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}
    answer = httpx.post(
        f"{URL}/v3/functions", content=json.dumps(document).encode(), headers=headers
    )
    assert answer.status_code == 422, answer.text
    assert field in answer.json()["message"]


def test_paths_and_methods_that_do_not_exist(alice: Researcher) -> None:
    alice.refused(404, "GET", "/v2/nothing")
    alice.refused(405, "PATCH", "/v2/endpoints")
    assert "not a UUID" in alice.refused(422, "GET", "/v2/tasks/17")


def test_too_long_a_request(alice: Researcher) -> None:
    document = {"function_name": "f", "function_code": "x" * (17 * 2**20)}
    assert "bytes" in alice.refused(413, "POST", "/v3/functions", document)
    document = {"function_name": "f", "function_code": "x" * (11 * 2**20)}
    assert "10485760" in alice.refused(422, "POST", "/v3/functions", document)


def test_functions_are_run_by_whom_they_are_shared_with(alice: Researcher, bob: Researcher) -> None:
    own = bob.register()["endpoint_id"]
    private = alice.register_function()
    public = alice.register_function(public=True)
    path = f"/v3/endpoints/{own}/submit"
    refusal = bob.refused(403, "POST", path, {"tasks": {private: [payload()]}})
    assert "not shared with you" in refusal
    bob.refused(403, "GET", f"/v2/functions/{private}")
    bob.refused(403, "DELETE", f"/v2/functions/{public}")
    bob.refused(404, "POST", path, {"tasks": {NOBODY: [payload()]}})
    bob.submit(own, public, [payload()])


def test_functions_shared_with_a_group(
    services: Services, alice: Researcher, bob: Researcher
) -> None:
    group = str(uuid.uuid4())
    own = bob.register()["endpoint_id"]
    function = alice.register_function(group=group)
    document = {"tasks": {function: [payload()]}}
    bob.refused(403, "POST", f"/v3/endpoints/{own}/submit", document)
    services.cli("group", "add", group, bob.client["username"])
    bob.submit(own, function, [payload()])
    services.cli("group", "remove", group, bob.client["username"])
    bob.refused(403, "POST", f"/v3/endpoints/{own}/submit", document)


def test_only_allowed_functions(alice: Researcher) -> None:
    allowed, other = alice.register_function(), alice.register_function()
    endpoint = alice.register(allowed_functions=[allowed])["endpoint_id"]
    listed = alice.done("GET", f"/v3/endpoints/{endpoint}/allowed_functions")
    assert listed == {"endpoint_id": endpoint, "restricted": True, "functions": [allowed]}
    alice.submit(endpoint, allowed, [payload()])
    refusal = alice.refused(
        403, "POST", f"/v3/endpoints/{endpoint}/submit", {"tasks": {other: [payload()]}}
    )
    assert "get_allowed_functions" in refusal


def test_single_user_endpoints_serve_linked_identities_only(
    alice: Researcher, bob: Researcher, new_researcher: Callable[..., Researcher]
) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function(public=True)
    document = {"tasks": {function: [payload()]}}
    refusal = bob.refused(403, "POST", f"/v3/endpoints/{endpoint}/submit", document)
    assert bob.client["username"] in refusal
    other_self = new_researcher("alicia", alice.client["username"])
    other_self.submit(endpoint, function, [payload()])
    for path in (f"/v2/endpoints/{endpoint}", f"/v2/endpoints/{endpoint}/status"):
        bob.refused(403, "GET", path)
        alice.done("GET", path)
    bob.refused(403, "DELETE", f"/v2/endpoints/{endpoint}")
    bob.refused(403, "POST", f"/v3/endpoints/{endpoint}/lock")


def test_public_only_lists_a_manager(alice: Researcher, bob: Researcher) -> None:
    hidden = alice.register(multi_user=True)["endpoint_id"]
    shown = alice.register(multi_user=True, public=True)["endpoint_id"]
    listed = {one["uuid"] for one in bob.done("GET", "/v2/endpoints?role=any")}
    assert shown in listed
    assert hidden not in listed
    assert bob.done("GET", f"/v2/endpoints/{hidden}")["multi_user"] is True
    function = bob.register_function()
    bob.submit(hidden, function, [payload()])


def test_registering_again(alice: Researcher, bob: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    path = f"/v3/endpoints/{endpoint}"
    asked = {"endpoint_name": "again", "metadata": {"hostname": "here"}}
    assert alice.done("PUT", path, asked)["endpoint_id"] == endpoint
    assert alice.done("GET", f"/v2/endpoints/{endpoint}")["name"] == "again"
    assert "another identity" in bob.refused(403, "PUT", path, asked)
    alice.refused(404, "PUT", f"/v3/endpoints/{NOBODY}", asked)


def test_a_second_instance_is_refused_unless_it_is_on_the_same_host(alice: Researcher) -> None:
    registration = alice.register()
    path = f"/v3/endpoints/{registration['endpoint_id']}"
    queue = registration["task_queue_info"]
    with connected(queue["connection_url"]) as running:
        running.channel.basic_consume(queue["queue"], lambda *_: None, exclusive=True)
        elsewhere = {"endpoint_name": "test", "metadata": {"hostname": "there"}}
        assert "already running on host here" in alice.refused(409, "PUT", path, elsewhere)
        here = {"endpoint_name": "test", "metadata": {"hostname": "here"}}
        again = alice.done("PUT", path, here)["task_queue_info"]
        with connected(again["connection_url"]) as new:
            new.channel.basic_consume(again["queue"], lambda *_: None, exclusive=True)


def test_fresh_credentials_are_for_the_instance_which_registered_last(alice: Researcher) -> None:
    path = f"/v3/endpoints/{alice.register()['endpoint_id']}"

    def asked(instance: str, *, renewal: bool) -> dict[str, Any]:
        metadata = {"hostname": "here", "instance": instance, "renewal": renewal}
        return {"endpoint_name": "test", "metadata": metadata}

    alice.done("PUT", path, asked("one", renewal=False))
    alice.done("PUT", path, asked("other", renewal=False))
    assert "already running" in alice.refused(409, "PUT", path, asked("one", renewal=True))
    queue = alice.done("PUT", path, asked("other", renewal=True))["task_queue_info"]
    with connected(queue["connection_url"]) as running:
        assert running.nothing_in(queue["queue"], 0.1)  # and consumes
        alice.done("PUT", path, asked("other", renewal=True))


def test_a_locked_endpoint_is_disconnected_and_cannot_register(alice: Researcher) -> None:
    registration = alice.register()
    endpoint = registration["endpoint_id"]
    url = registration["task_queue_info"]["connection_url"]
    with connected(url) as running:
        locked = alice.done("POST", f"/v3/endpoints/{endpoint}/lock")
        assert locked["endpoint_id"] == endpoint
        assert locked["lock_expiration_timestamp"]
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker):
            running.connection.process_data_events(30)
    with pytest.raises(pika.exceptions.ProbableAuthenticationError), connected(url):
        pass
    asked = {"endpoint_name": "test", "metadata": {"hostname": "here"}}
    assert "locked" in alice.refused(423, "PUT", f"/v3/endpoints/{endpoint}", asked)


def test_deleting_an_endpoint_fails_its_tasks(alice: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function()
    (task,) = alice.submit(endpoint, function, [payload()])["tasks"][function]
    alice.done("DELETE", f"/v2/endpoints/{endpoint}")
    answer = alice.done("GET", f"/v2/tasks/{task}")
    assert answer["status"] == "failed"
    assert "was deleted" in answer["exception"]
    alice.refused(404, "GET", f"/v2/endpoints/{endpoint}")


def test_tasks_of_others_are_not_shown(alice: Researcher, bob: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    function = alice.register_function()
    submitted = alice.submit(endpoint, function, [payload()])
    (task,) = submitted["tasks"][function]
    group = submitted["task_group_id"]
    bob.refused(403, "GET", f"/v2/tasks/{task}")
    bob.refused(403, "GET", f"/v2/taskgroup/{group}")
    assert bob.done("POST", "/v2/batch_status", {"task_ids": [task, NOBODY]})["results"] == {}
    mine = alice.done("POST", "/v2/batch_status", {"task_ids": [task, NOBODY]})["results"]
    assert mine == {task: {"task_id": task, "status": "waiting-for-ep"}}
    own = bob.register()["endpoint_id"]
    document = {"tasks": {bob.register_function(): [payload()]}, "task_group_id": group}
    bob.refused(403, "POST", f"/v3/endpoints/{own}/submit", document)


def test_unknown_task_groups(alice: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    document = {"tasks": {alice.register_function(): [payload()]}, "task_group_id": NOBODY}
    alice.refused(404, "POST", f"/v3/endpoints/{endpoint}/submit", document)
    alice.refused(404, "GET", f"/v2/taskgroup/{NOBODY}")


def test_the_order_of_tasks_is_kept(alice: Researcher) -> None:
    registration = alice.register()
    function = alice.register_function()
    payloads = [payload(number) for number in range(20)]
    submitted = alice.submit(registration["endpoint_id"], function, payloads)
    queue = registration["task_queue_info"]
    with connected(queue["connection_url"]) as endpoint:
        messages = endpoint.take(queue["queue"], 20)
    ids = [properties.headers["task_uuid"] for _, properties, _ in messages]
    assert ids == submitted["tasks"][function]
    bodies = [body for _, _, body in messages]
    for number, body in enumerate(bodies):
        assert payloads[number] in json.loads(body[1:])["data"]["task_buffer"]


def test_the_older_form_of_submit(alice: Researcher) -> None:
    endpoint = alice.register()["endpoint_id"]
    one, two = alice.register_function(), alice.register_function()
    tasks = [[one, endpoint, payload(1)], [two, endpoint, payload(2)], [one, endpoint, payload(3)]]
    answer = alice.done("POST", "/v2/submit", {"tasks": tasks})
    ids = [result["task_uuid"] for result in answer["results"]]
    group = alice.done("GET", f"/v2/taskgroup/{answer['task_group_id']}")
    assert {task["id"] for task in group["tasks"]} == set(ids)
    assert len(set(ids)) == 3
