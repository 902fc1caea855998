# SPDX-License-Identifier: Apache-2.0
"""`systemctl reload` and `systemctl stop`, while users' functions run."""

import contextlib
import json
import time

from support.waiting import until
from system.site import IDENTITY_MAPPING, MIB
from system.test_units import THREADS, disturb, main_pids, wait_and_tell


def reload(warm):
    return warm.host.run("systemctl", "reload", warm.unit, check=False)


@contextlib.contextmanager
def edited(warm, **files):
    """The endpoint's files with new contents, and afterwards as they were."""
    directory = f"/etc/globus-compute-endpoint/{warm.name}"
    before = {name: warm.host.read(f"{directory}/{name}") for name in files}
    try:
        for name, content in files.items():
            warm.host.write(f"{directory}/{name}", content)
        yield
    finally:
        for name, content in before.items():
            warm.host.write(f"{directory}/{name}", content)
        assert reload(warm).returncode == 0


def config_of(warm):
    return json.loads(warm.host.read(f"/etc/globus-compute-endpoint/{warm.name}/config.yaml"))


def limit_of(warm, unit, name="MemoryMax"):
    return warm.property(unit, name)


def test_all_of_it_takes_effect_and_no_task_is_dropped(warm):
    units = main_pids(warm)
    config = config_of(warm)
    config["resource_control"] = {
        "user": {"MemoryMax": "2048M", "TasksMax": 1024},
        "endpoint": {"MemoryMax": "700M"},
    }
    schema = {"type": "object", "properties": {"engine": {"enum": [THREADS]}}}
    files = {
        "config.yaml": json.dumps(config),
        "user_config_schema.json": json.dumps(schema),
    }
    with contextlib.ExitStack() as changed:

        def change():
            changed.enter_context(edited(warm, **files))
            done = reload(warm)
            assert done.returncode == 0, done.stderr
            # When the command is back, it is so.
            (scope, *_) = warm.scopes()
            assert limit_of(warm, scope) == str(700 * MIB)
            assert limit_of(warm, scope, "TasksMax") == "infinity"
            slice_ = warm.property(scope, "Slice")
            assert limit_of(warm, slice_) == str(2048 * MIB)

        before, during, after = disturb(warm, change)
        assert before == during == after, "the same user endpoint went on"
        now = main_pids(warm)
        assert (now[""], now["-spawner"]) == (units[""], units["-spawner"])
        assert now["-gateway"] != units["-gateway"], "it registers anew, with the new schema"
        error = warm.researcher("alice").failure(wait_and_tell, 0, engine="ProcessPoolEngine")
        assert "ProcessPoolEngine" in error
    assert warm.researcher("alice").call(wait_and_tell, 0, engine="ProcessPoolEngine")


def test_what_is_invalid_is_refused_with_file_and_key_and_the_old_stays(warm):
    wrong = config_of(warm)
    wrong["resource_control"]["user"]["MemoryMax"] = "much"
    bob = warm.researcher("bob")
    before = bob.call(wait_and_tell, 0, engine=THREADS)
    units = main_pids(warm)
    for file, content, said in (
        ("config.yaml", json.dumps(wrong, indent=2), "resource_control.user.MemoryMax"),
        ("user_config_schema.json", '{"type": 3}', "user_config_schema.json"),
        ("user_config_template.yaml.j2", "engine: {{ oops", "line 1"),
        ("identity_mapping.json", "[{", "identity_mapping.json"),
    ):
        with edited(warm, **{file: content}):
            assert reload(warm).returncode != 0, file
            told = warm.host.journal("-u", warm.unit, "-n", "12")
            assert any(said in entry["MESSAGE"] for entry in told), (file, told)
            assert main_pids(warm) == units
            assert bob.call(wait_and_tell, 0, engine=THREADS) == before


def test_a_new_mapping_file_is_taken_with_the_configuration(warm):
    directory = f"/etc/globus-compute-endpoint/{warm.name}"
    other = f"{directory}/other_mapping.json"
    mapping = json.loads(json.dumps(IDENTITY_MAPPING).replace("{0}", "nobody-{0}"))
    warm.host.write(other, json.dumps(mapping))
    config = config_of(warm) | {"identity_mapping_config_path": other}
    with edited(warm, **{"config.yaml": json.dumps(config)}):
        assert reload(warm).returncode == 0
        error = warm.researcher("bob").failure(wait_and_tell, 0, engine="ProcessPoolEngine")
        assert "nobody-bob" in error
    assert warm.researcher("bob").call(wait_and_tell, 0, engine="ProcessPoolEngine")


def test_stop_lets_what_runs_come_to_its_end(warm):
    person = warm.researcher("alice")
    pid = person.call(wait_and_tell, 0, engine=THREADS)
    command = person.command((wait_and_tell, (8,)), engine=THREADS)
    with person.host.background(*command, environment=person.environment) as process:
        time.sleep(3)
        began = time.monotonic()
        warm.host.run("systemctl", "stop", warm.unit)
        took = time.monotonic() - began
        assert warm.scopes() == []
        said, _ = process.communicate(timeout=30)
    assert json.loads(said).get("value") == pid
    assert took < 15, "it waits no longer than the task takes"
    warm.host.run("systemctl", "start", warm.unit)
    until(lambda: warm.property(warm.unit, "ActiveState") == "active")
    assert person.call(wait_and_tell, 0, engine=THREADS) != pid
