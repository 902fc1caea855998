# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong ends the researcher's future with what to change, and disturbs nobody else."""

import contextlib
import json
import time

import pytest

THREADS = "ThreadPoolEngine"


def double(number):
    return 2 * number


def fail():
    raise ValueError("a mistake of my own")


def return_a_lock():
    import threading

    return threading.Lock()


def return_bytes(count):
    return b"x" * count


def end_the_process():
    import os

    os._exit(3)


def doze(seconds):
    import time

    time.sleep(seconds)
    return seconds


@contextlib.contextmanager
def mapping(warm, expression, match=".*"):
    """Another identity mapping, for as long as the context lasts; taken without a restart."""
    path = f"/etc/globus-compute-endpoint/{warm.name}/identity_mapping.json"
    before = warm.host.read(path)
    document = json.loads(before)
    document[0]["mappings"] = [{"source": "{username}", "match": match, "output": expression}]
    replace_mapping(warm, path, json.dumps(document))
    try:
        yield
    finally:
        replace_mapping(warm, path, before)


def replace_mapping(warm, path, text):
    unit = f"{warm.unit}.service"
    seen = len(warm.host.journal("-u", unit, "--grep", "took the new identity mapping"))
    warm.host.write(path, text)
    deadline = time.monotonic() + 10
    while len(warm.host.journal("-u", unit, "--grep", "took the new identity mapping")) == seen:
        assert time.monotonic() < deadline, "the manager did not notice its new mapping"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("root", "you are mapped to root"),
        ("daemon", "'daemon', a system account"),
        ("nobody-here", "who does not exist here"),
    ],
)
def test_identities_mapped_to_whom_it_must_not_be(warm, expression, said):
    person = warm.researcher(f"mapped-to-{expression}")
    with mapping(warm, expression):
        error = person.failure(double, 2, engine=THREADS)
    assert said in error
    assert "administrator" in error
    refused = warm.host.journal("-u", f"{warm.unit}.service", "--grep", "refused to start")
    assert refused[-1]["GC_PROBLEM"].startswith("LOCAL_USER")


def test_an_identity_mapped_to_nobody(warm):
    person = warm.researcher("stranger")
    with mapping(warm, "alice", match="alice@example.org"):
        error = person.failure(double, 2, engine=THREADS)
    assert "stranger@example.org" in error
    assert "is mapped to a local user" in error


def test_an_invalid_mapping_is_refused_and_the_old_one_stays(warm):
    path = f"/etc/globus-compute-endpoint/{warm.name}/identity_mapping.json"
    before = warm.host.read(path)
    warm.host.write(path, "[{")
    try:
        assert warm.researcher("alice").call(double, 4, engine=THREADS) == 8
        unit = f"{warm.unit}.service"
        assert warm.host.journal("-u", unit, "--grep", "the old stays")
    finally:
        warm.host.write(path, before)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"engine": "NoSuchEngine"}, "NoSuchEngine"),
        ({"engine": THREADS, "unheard_of": 1}, "unheard_of"),
        ({"engine": '"\nengine: {type: ThreadPoolEngine}\n#'}, "engine"),
        ({"engine": 7}, "7"),
    ],
)
def test_variables_which_break_the_schema(warm, config, said):
    error = warm.researcher("alice").failure(double, 2, **config)
    assert said in error
    assert "Traceback" not in error


def test_a_value_cannot_break_out_of_its_place_in_the_yaml(warm):
    """Without the schema's help: the quoting alone must hold."""
    directory = f"/etc/globus-compute-endpoint/{warm.name}"
    schema = warm.host.read(f"{directory}/user_config_schema.json")
    template = warm.host.read(f"{directory}/user_config_template.yaml.j2")
    try:
        warm.host.write(f"{directory}/user_config_schema.json", "{}")
        loose = "engine: {type: ThreadPoolEngine}\ndisplay_name: {{ title }}\n"
        warm.host.write(f"{directory}/user_config_template.yaml.j2", loose)
        warm.host.run("systemctl", "restart", warm.unit)
        evil = 'x"\nidle_heartbeats_soft: "not a number'
        assert warm.researcher("alice").call(double, 3, title=evil) == 6
        error = warm.researcher("alice").failure(double, 3, title=["not", "a", "name"])
        assert "display_name" in error
        error = warm.researcher("alice").failure(double, 3, other="x")
        assert "title" in error
    finally:
        warm.host.write(f"{directory}/user_config_schema.json", schema)
        warm.host.write(f"{directory}/user_config_template.yaml.j2", template)
        warm.host.run("systemctl", "restart", warm.unit)


@pytest.mark.parametrize("engine", [THREADS, "ProcessPoolEngine", "GlobusComputeEngine"])
def test_functions_which_go_wrong(warm, engine):
    good, failed, unserializable, large, after = warm.researcher("alice").outcomes(
        (double, (1,)),
        (fail, ()),
        (return_a_lock, ()),
        (return_bytes, (11 << 20,)),
        (double, (2,)),
        engine=engine,
    )
    assert good.value == 2
    assert after.value == 4
    assert "a mistake of my own" in failed.error
    assert "ValueError" in failed.error
    assert "lock" in unserializable.error
    assert "10" in large.error
    assert "MaxResultSizeExceeded" in large.error or "larger" in large.error


def test_a_function_which_ends_its_user_endpoint_says_so_to_all_its_tasks(warm):
    person = warm.researcher("bob")
    # How a user endpoint ended that was adopted after a restart, nobody knows: have a new one.
    assert "os._exit" in person.failure(end_the_process, engine=THREADS)
    slow, died = person.outcomes((doze, (20,)), (end_the_process, ()), engine=THREADS)
    for outcome in (slow, died):
        assert "os._exit" in outcome.error
        assert "status 3" in outcome.error
    assert person.call(double, 5, engine=THREADS) == 10


def test_a_function_which_ends_its_worker_fails_alone(warm):
    person = warm.researcher("bob")
    died, *_ = person.outcomes((end_the_process, ()), engine="ProcessPoolEngine")
    assert died.error
    assert person.call(double, 5, engine="ProcessPoolEngine") == 10
