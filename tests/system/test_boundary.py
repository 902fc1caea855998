# SPDX-License-Identifier: Apache-2.0
"""What a user's process has, and what it does not have, once it has been let go."""

import json
import re

import pytest

ENGINES = ["ThreadPoolEngine", "ProcessPoolEngine", "GlobusComputeEngine"]


def describe_process():
    import os

    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    with open("/proc/self/cgroup") as file:
        cgroups = file.read()
    wanted = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk", "Seccomp")
    return {
        "status": {name: status[name].split() for name in wanted},
        "cgroups": cgroups,
        "environment": dict(os.environ),
        "readable": os.access("/proc/self/environ", os.R_OK),
        "stdin": os.readlink("/proc/self/fd/0"),
        "title": open("/proc/self/cmdline", "rb").read().decode(),
        "directory": os.getcwd(),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["alice", "bob"])
def test_functions_run_as_the_mapped_user_with_nothing_of_roots(warm, name, engine):
    seen = warm.researcher(name).call(describe_process, engine=engine)
    uid = str(warm.uids[name])
    assert seen["status"]["Uid"] == [uid] * 4
    assert seen["status"]["Gid"] == [uid] * 4
    assert set(seen["status"]["Groups"]) <= {uid}
    for name_of_set in ("CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk"):
        assert int(seen["status"][name_of_set][0], 16) == 0, name_of_set
    assert seen["status"]["Seccomp"] == ["0"]
    scope = rf"/globus\.slice/globus-compute\.slice/globus-compute-{uid}\.slice/globus-compute-uep-"
    assert re.search(scope, seen["cgroups"])
    if engine != "GlobusComputeEngine":  # whose workers are Parsl's programs
        assert seen["title"].startswith("Globus Compute Endpoint (")
    assert seen["environment"]["HOME"] == f"/home/{name}"
    assert not [key for key in seen["environment"] if "SECRET" in key or "NOTIFY" in key]


def test_status_shows_root_whose_user_endpoints_run(warm):
    seen = warm.researcher("alice").call(describe_process, engine="ThreadPoolEngine")
    told = warm.host.run("globus-compute-endpoint", "status", "--json", warm.name).stdout
    document = json.loads(told)
    assert (document["kind"], document["state"]) == ("system", "Running")
    assert document["endpoint_id"] == warm.endpoint_id
    scopes = {each["unit"]: each for each in document["user_endpoints"]}
    scope = next(each for name, each in scopes.items() if name in seen["cgroups"])
    assert (scope["local_user"], scope["uid"]) == ("alice", warm.uids["alice"])
    assert scope["engine"]["engine_type"] == "ThreadPoolEngine"
    assert scope["done_tasks"] >= 1
    assert 2**20 < scope["memory"] < 2**30
    assert scope["processes"] >= 1


def read_others_keys():
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    add_key, describe, session = 248, 6, -3
    key = libc.syscall(add_key, b"user", b"globus-compute-test", b"secret", 6, session)
    buffer = ctypes.create_string_buffer(256)
    libc.syscall(250, describe, session, buffer, 256)
    with open("/proc/keys") as file:
        return key > 0, file.read()


def test_each_user_has_a_session_keyring_of_its_own(warm):
    def keys(name):
        stored, listed = warm.researcher(name).call(read_others_keys, engine="ThreadPoolEngine")
        assert stored
        return {line.split()[0] for line in listed.splitlines() if "globus-compute-test" in line}

    alices, bobs = keys("alice"), keys("bob")
    assert alices
    assert bobs
    assert not alices & bobs


def attack_the_boundary(name):
    import os
    import socket

    found = {}
    for path in (
        f"/run/globus-compute-endpoint/{name}/manager/socket",
        f"/run/globus-compute-endpoint/{name}/manager/status",
        f"/run/globus-compute-endpoint/{name}/spawner/socket",
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
            found[path] = attempt.connect_ex(path)
    for path in (
        f"/etc/globus-compute-endpoint/{name}/gateway.env",
        f"/var/lib/globus-compute-endpoint/{name}/starts",
        f"/var/lib/globus-compute-endpoint/{name}/gateway/endpoint.json",
        "/var/lib/globus-compute-endpoint/users/1",
    ):
        found[path] = os.access(path, os.R_OK)
    for change in (os.setuid, os.setgid):
        try:
            change(0)
            found[change.__name__] = True
        except PermissionError:
            found[change.__name__] = False
    return found


def test_a_user_reaches_neither_sockets_nor_secrets_nor_root(warm):
    found = warm.researcher("alice").call(attack_the_boundary, warm.name, engine="ThreadPoolEngine")
    sockets = {path: errno for path, errno in found.items() if path.startswith("/run/")}
    assert len(sockets) == 3
    assert all(errno == 13 for errno in sockets.values()), sockets
    assert not any(value for path, value in found.items() if path not in sockets), found


def test_the_record_of_who_lives_in_a_scope_is_roots_alone(warm):
    warm.researcher("alice").call(describe_process, engine="ThreadPoolEngine")
    scope = warm.scopes()[0]
    cgroup = warm.property(scope, "ControlGroup")
    read = (
        "for d in /sys/fs/cgroup/systemd /sys/fs/cgroup; do"
        " getfattr -n trusted.globus-compute-endpoint --only-values $d$0 2>/dev/null; done; true"
    )
    record = json.loads(warm.host.run("sh", "-c", read, cgroup).stdout)
    assert scope == f"globus-compute-uep-{record['endpoint_id']}.scope"
    assert record["manager"] == f"{warm.unit}.service"
    assert warm.host.run("sh", "-c", read, cgroup, user="alice").stdout == ""


def test_the_gateway_has_no_rights_and_the_manager_no_network(warm):
    units = {
        "manager": f"{warm.unit}.service",
        "gateway": f"globus-compute-endpoint-gateway@{warm.name}.service",
        "spawner": f"globus-compute-endpoint-spawner@{warm.name}.service",
    }
    status, networks = {}, {}
    for role, unit in units.items():
        pid = warm.property(unit, "MainPID")
        lines = warm.host.read(f"/proc/{pid}/status").splitlines()
        status[role] = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        networks[role] = warm.host.run("readlink", f"/proc/{pid}/ns/net").stdout
    assert status["manager"]["Uid"].split() == ["0"] * 4
    assert status["gateway"]["Uid"].split()[0] not in ("0", *map(str, warm.uids.values()))
    for role in ("manager", "gateway"):
        for name in ("CapEff", "CapPrm", "CapBnd"):
            assert int(status[role][name], 16) == 0, (role, name)
        assert status[role]["NoNewPrivs"] == "1"
        assert status[role]["Seccomp"] == "2"
    assert networks["manager"] != networks["spawner"] == networks["gateway"]
    assert status["spawner"]["Threads"] == "1"


@pytest.mark.parametrize(("role", "worst"), [("", 2.0), ("-gateway", 2.5)])
def test_the_sandboxes_score_as_well_as_they_did(warm, role, worst):
    unit = f"globus-compute-endpoint{role}@{warm.name}.service"
    said = warm.host.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
    level = re.search(r"exposure level for .*: ([0-9.]+)", said)
    assert level, said
    assert float(level[1]) <= worst, said


def test_only_the_gateways_unit_may_speak_to_the_manager(warm):
    program = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.connect('/run/globus-compute-endpoint/{warm.name}/manager/socket');"
        "print(s.recv(100))"
    )
    identity = ["setpriv", "--reuid=globus-compute-gateway", "--regid=globus-compute-gateway"]
    said = warm.host.run(*identity, "--clear-groups", "python3", "-c", program).stdout
    assert said == "b''\n"  # the same account, but another unit: hung up
    refused = warm.host.journal("-u", f"{warm.unit}.service", "--grep", "refused a connection")
    assert refused
