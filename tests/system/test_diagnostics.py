# SPDX-License-Identifier: Apache-2.0
"""``diagnostic`` of a system endpoint: units, journal, and the way out to the services."""

from __future__ import annotations

import json

ARCHIVE = "/root/collected.tar.gz"


def test_a_system_endpoint_and_its_units(warm):
    host = warm.host
    command = ("globus-compute-diagnostic", warm.name, "--json", "--output", ARCHIVE)
    try:
        document = json.loads(host.run(*command).stdout)

        results = {check["name"]: check["ok"] for check in document["checks"]}
        assert set(results.values()) == {True}, document
        for name in (f"configuration of {warm.name}", "REST: GET /v2/version", "AMQP: handshake"):
            assert name in results
        assert sum(" TLS " in name for name in results) == 3  # by the site's own authority
        assert host.run("stat", "-c", "%a %U", ARCHIVE).stdout == "600 root\n"

        def member(name):
            return host.run("tar", "-xzOf", ARCHIVE, f"collected/endpoints/{name}").stdout

        units = member(f"{warm.name}/units.txt")
        for part in ("", "-gateway", "-spawner"):
            assert f"globus-compute-endpoint{part}@{warm.name}.service - " in units
        assert "MainPID=" in member(f"{warm.name}/units-in-full.txt")
        assert "connected to amqps://" in member(f"{warm.name}/journal.txt")
        assert "identity_mapping_config_path" in member(f"{warm.name}/config.yaml")
        assert warm.endpoint_id in member(f"{warm.name}/state/endpoint.json")
        variables = member(f"{warm.name}/gateway.env")
        assert "GLOBUS_COMPUTE_CLIENT_SECRET= <removed>\n" in variables
        secrets = host.run(
            "sed",
            "-n",
            "s/^[A-Z_]*SECRET=//p",
            f"/etc/globus-compute-endpoint/{warm.name}/gateway.env",
        ).stdout.split()
        everything = host.run("tar", "-xzOf", ARCHIVE).stdout
        assert secrets and not [each for each in secrets if each.strip("'\"") in everything]
    finally:
        host.run("rm", "-f", ARCHIVE)


def test_an_ordinary_user_sees_nothing_of_the_systems(warm):
    done = warm.host.run(
        "globus-compute-endpoint", "diagnostic", warm.name, user="alice", check=False
    )
    assert done.returncode == 78
    assert f"there is no endpoint {warm.name}" in done.stderr
