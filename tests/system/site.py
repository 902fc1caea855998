# SPDX-License-Identifier: Apache-2.0
"""A whole site in one test host: packages, RabbitMQ, web services, an endpoint, local users."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from system.hosts import Host, prepared_environment
from system.packages import ENDPOINT, SERVICES, install_packages

SERVICES_URL = "http://127.0.0.1:5000"
DOMAIN = "example.org"
ENGINES = ("ThreadPoolEngine", "ProcessPoolEngine", "GlobusComputeEngine")

# alice@example.org is the local user alice.
IDENTITY_MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": r"(.*)@example\.org", "output": "{0}"}],
    }
]
# Values come JSON-quoted: a string has its quotes.
TEMPLATE = """\
idle_heartbeats_soft: 20
heartbeat_period: 15
engine:
  type: {{ engine | default("ThreadPoolEngine") }}
{% if engine | default("") == '"GlobusComputeEngine"' %}
  max_workers_per_node: 1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1}
{% else %}
  max_workers: 2
{% endif %}
"""
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"engine": {"enum": list(ENGINES)}},
    "additionalProperties": False,
}
MIB = 1 << 20
ENDPOINT_MEMORY = 768 * MIB
USER_MEMORY = 3072 * MIB


@dataclass(frozen=True)
class Client:
    """A client identity of the web services."""

    id: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{SERVICES_URL}/",
            "GLOBUS_COMPUTE_CLIENT_ID": self.id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.secret,
        }


def sdk_environment() -> Path:
    """A virtual environment with globus-compute-sdk from PyPI, as it is."""
    return prepared_environment("sdk")


class Site:
    """What an administrator sets up, step by step; `tell` hears of each step."""

    def __init__(self, host: Host, tell: Callable[[str], None] = print) -> None:
        self.host = host
        self.tell = tell

    def install(self) -> None:
        self.tell("installing the packages with apt")
        install_packages(self.host, ENDPOINT, SERVICES)

    def start_services(self) -> None:
        self.tell("systemctl start rabbitmq-server")
        self.host.run("systemctl", "start", "rabbitmq-server")
        self.tell("globus-compute-services init; systemctl start globus-compute-services")
        self.host.run("globus-compute-services", "init")
        self.host.run("systemctl", "start", "globus-compute-services")

    def create_client(self, name: str) -> Client:
        """A client of the services which signs in as NAME@example.org."""
        made = self.host.run(
            *("globus-compute-services", "client", "create", name),
            *("--username", f"{name}@{DOMAIN}", "--json"),
        )
        document = json.loads(made.stdout)
        return Client(document["client_id"], document["client_secret"])

    def configure_endpoint(self, name: str, client: Client) -> None:
        """Write what an administrator writes for the endpoint."""
        self.tell(f"globus-compute-endpoint configure --multi-user {name}")
        self.host.run("globus-compute-endpoint", "configure", "--multi-user", name)
        directory = f"/etc/globus-compute-endpoint/{name}"
        mapping = f"{directory}/identity_mapping.json"
        config = {
            "multi_user": True,
            "identity_mapping_config_path": mapping,
            "services": {"compute_url": SERVICES_URL, "auth_url": SERVICES_URL},
            "resource_control": {
                "user": {"MemoryMax": f"{USER_MEMORY // MIB}M", "TasksMax": 2048},
                "endpoint": {"MemoryMax": f"{ENDPOINT_MEMORY // MIB}M", "TasksMax": 512},
            },
        }
        write = self.host.write
        write(f"{directory}/config.yaml", json.dumps(config, indent=2))  # JSON is YAML
        write(mapping, json.dumps(IDENTITY_MAPPING, indent=2))
        write(f"{directory}/user_config_template.yaml.j2", TEMPLATE)
        write(f"{directory}/user_config_schema.json", json.dumps(SCHEMA, indent=2))
        secrets = (
            f"GLOBUS_COMPUTE_CLIENT_ID={client.id}\nGLOBUS_COMPUTE_CLIENT_SECRET={client.secret}\n"
        )
        write(f"{directory}/gateway.env", secrets, mode=0o600)

    def start_endpoint(self, name: str) -> str:
        """Start the endpoint's units; returns the id under which it registered."""
        unit = f"globus-compute-endpoint@{name}"
        self.tell(f"systemctl start {unit}")
        began = time.monotonic()
        self.host.run("systemctl", "start", unit)
        self.tell(f"ready after {time.monotonic() - began:.1f} s")
        registration = f"/var/lib/globus-compute-endpoint/{name}/gateway/endpoint.json"
        return str(json.loads(self.host.read(registration))["endpoint_id"])
