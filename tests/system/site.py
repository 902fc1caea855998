# SPDX-License-Identifier: Apache-2.0
"""A whole site: a laptop, web services with RabbitMQ, a login node with an endpoint and users."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from support import slurm
from support.authority import Authority
from system.hosts import Host, prepared_environment
from system.network import (
    BROKER,
    BROKER_NAME,
    COMPUTE,
    COMPUTE_NAME,
    SDK_NAMES,
    laptop_link,
    login_node_link,
    put_up_firewall,
    services_link,
)
from system.packages import (
    ENDPOINT,
    SERVICES,
    build_packages,
    install_packages,
    wheelhouse,
)

SERVICES_URL = f"https://{COMPUTE_NAME}"
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
{% if engine | default("") == '"Slurm"' %}
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  heartbeat_period: 2
  heartbeat_threshold: 10
  job_status_kwargs: {strategy_period: 1}
  provider: {type: SlurmProvider, exclusive: false, init_blocks: 1, min_blocks: 0, max_blocks: 2}
{% else %}
  type: {{ engine | default("ThreadPoolEngine") }}
{% endif %}
{% if engine | default("") == '"GlobusComputeEngine"' %}
  max_workers_per_node: 1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1}
{% elif engine | default("") != '"Slurm"' %}
  max_workers: 2
{% endif %}
"""
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"engine": {"enum": [*ENGINES, "Slurm"]}},
    "additionalProperties": False,
}
MIB = 1 << 20
ENDPOINT_MEMORY = 768 * MIB
USER_MEMORY = 3072 * MIB


# The authority, where a laptop and where the endpoint has it; no user can read the latter.
LAPTOP_CA = "/etc/ssl/site-ca.pem"
ENDPOINT_CA = "/etc/globus-compute-endpoint/site-ca.pem"
# With the site's names for the hosted services: all that the stock SDK must be told.
SDK_TRUST = {"GLOBUS_SDK_VERIFY_SSL": LAPTOP_CA, "SSL_CERT_FILE": LAPTOP_CA}

# What the administrator of RabbitMQ writes: AMQPS on port 443, all else on the loopback.
RABBITMQ_CONF = f"""\
listeners.tcp.1 = 127.0.0.1:5672
listeners.ssl.1 = {BROKER}:443
ssl_options.certfile = /etc/rabbitmq/certificate.pem
ssl_options.keyfile = /etc/rabbitmq/key.pem
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
management.tcp.ip = 127.0.0.1
"""
RABBITMQ_PORT = "[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
SLURM_UNIT = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 /opt/slurm.py start
[Install]
WantedBy=multi-user.target
"""
HTTPS_SOCKET = f"[Socket]\nListenStream=\nListenStream={COMPUTE}:443\n"


@dataclass(frozen=True)
class Client:
    """A client identity of the web services."""

    id: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GLOBUS_COMPUTE_CLIENT_ID": self.id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.secret,
        }


def sdk_environment() -> Path:
    """A virtual environment with globus-compute-sdk from PyPI, as it is."""
    return prepared_environment("sdk")


@dataclass(frozen=True)
class Machines:
    """The three hosts of a site; what one has on its loopback, the others do not see."""

    laptop: Host
    services: Host
    login_node: Host


@contextlib.contextmanager
def three_machines(
    name: str, sdk: Path, *, keep: bool = False, login_packages: Sequence[str] = ()
) -> Iterator[Machines]:
    """Boot them side by side, with the firewall between them; `keep` and the rest as for Host."""
    machines = Machines(
        Host(f"{name}-laptop", binds=[sdk, wheelhouse()], link=laptop_link(name), keep=keep),
        Host(f"{name}-services", link=services_link(name), keep=keep),
        Host(f"{name}-login", link=login_node_link(name), keep=keep, packages=login_packages),
    )
    hosts = (machines.laptop, machines.services, machines.login_node)
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(stack.enter_context, hosts))
        put_up_firewall(name)
        yield machines


class Site:
    """What administrators set up, step by step; `tell` hears of each step."""

    def __init__(self, machines: Machines, tell: Callable[[str], None] = print) -> None:
        self.laptop = machines.laptop
        self.services = machines.services
        self.login_node = machines.login_node
        self.authority = Authority()
        self.tell = tell

    def install(self) -> None:
        self.tell("installing the packages with apt, on services and login node")
        build_packages()  # once, and not by both
        with ThreadPoolExecutor(2) as pool:
            services = pool.submit(install_packages, self.services, SERVICES)
            install_packages(self.login_node, ENDPOINT)
            services.result()
        self.laptop.write(LAPTOP_CA, self.authority.certificate)
        self.login_node.write(ENDPOINT_CA, self.authority.certificate, mode=0o640)
        self.login_node.run("chgrp", "globus-compute-gateway", ENDPOINT_CA)

    def start_services(self) -> None:
        self.tell("systemctl start rabbitmq-server, with AMQPS on port 443")
        host = self.services
        self.give_certificate("/etc/rabbitmq", "rabbitmq", [BROKER_NAME])
        host.write("/etc/rabbitmq/rabbitmq.conf", RABBITMQ_CONF)
        host.write("/etc/systemd/system/rabbitmq-server.service.d/port.conf", RABBITMQ_PORT)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "start", "rabbitmq-server")
        self.tell("globus-compute-services init; systemctl start globus-compute-services")
        host.run("globus-compute-services", "init")
        self.give_certificate(*self.certificate_of_services)
        self.tell_services_where_they_are()
        host.write("/etc/systemd/system/globus-compute-services.socket.d/at.conf", HTTPS_SOCKET)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--now", "globus-compute-services.socket")
        host.run("systemctl", "start", "globus-compute-services")

    certificate_of_services = (
        "/etc/globus-compute-services",
        "globus-compute-services",
        [COMPUTE_NAME, *SDK_NAMES],
    )

    def give_certificate(self, directory: str, group: str, names: list[str]) -> None:
        """A new certificate for names of the services' host, its key readable for a group."""
        certificate, key = self.authority.issue(names)
        self.services.write(f"{directory}/certificate.pem", certificate)
        self.services.write(f"{directory}/key.pem", key, mode=0o640)
        self.services.run("chgrp", group, f"{directory}/key.pem")

    def tell_services_where_they_are(self) -> None:
        path = "/etc/globus-compute-services/config.yaml"
        document = yaml.safe_load(self.services.read(path))
        directory = self.certificate_of_services[0]
        document["http"] = {
            "public_url": SERVICES_URL,
            "tls": {"certificate": f"{directory}/certificate.pem", "key": f"{directory}/key.pem"},
        }
        document["broker"] |= {
            "client_scheme": "amqps",
            "client_host": BROKER_NAME,
            "client_port": 443,
        }
        # Into the file that is there: its owner and mode are to stay.
        script = f"cat >{shlex.quote(path)}"
        self.services.run("sh", "-c", script, stdin=yaml.safe_dump(document))

    def create_client(self, name: str) -> Client:
        """A client of the services which signs in as NAME@example.org."""
        made = self.services.run(
            *("globus-compute-services", "client", "create", name),
            *("--username", f"{name}@{DOMAIN}", "--json"),
        )
        document = json.loads(made.stdout)
        return Client(document["client_id"], document["client_secret"])

    def configure_endpoint(self, name: str, client: Client) -> None:
        """Write what an administrator writes for the endpoint."""
        self.tell(f"globus-compute-endpoint configure --multi-user {name}")
        self.login_node.run("globus-compute-endpoint", "configure", "--multi-user", name)
        directory = f"/etc/globus-compute-endpoint/{name}"
        mapping = f"{directory}/identity_mapping.json"
        config = {
            "multi_user": True,
            "identity_mapping_config_path": mapping,
            "services": {
                "compute_url": SERVICES_URL,
                "auth_url": SERVICES_URL,
                "ca_file": ENDPOINT_CA,
            },
            "resource_control": {
                "user": {"MemoryMax": f"{USER_MEMORY // MIB}M", "TasksMax": 2048},
                "endpoint": {"MemoryMax": f"{ENDPOINT_MEMORY // MIB}M", "TasksMax": 512},
            },
        }
        write = self.login_node.write
        write(f"{directory}/config.yaml", json.dumps(config, indent=2))  # JSON is YAML
        write(mapping, json.dumps(IDENTITY_MAPPING, indent=2))
        write(f"{directory}/user_config_template.yaml.j2", TEMPLATE)
        write(f"{directory}/user_config_schema.json", json.dumps(SCHEMA, indent=2))
        secrets = (
            f"GLOBUS_COMPUTE_CLIENT_ID={client.id}\nGLOBUS_COMPUTE_CLIENT_SECRET={client.secret}\n"
        )
        write(f"{directory}/gateway.env", secrets, mode=0o600)

    def start_slurm(self) -> None:
        """Start a Slurm cluster on the login node; it comes back when that boots."""
        self.login_node.write("/opt/slurm.py", Path(slurm.__file__).read_text())
        self.login_node.write("/etc/systemd/system/slurm-cluster.service", SLURM_UNIT)
        self.login_node.run("systemctl", "enable", "--now", "slurm-cluster")

    def start_endpoint(self, name: str) -> str:
        """Start the endpoint's units; returns the id under which it registered."""
        unit = f"globus-compute-endpoint@{name}"
        self.tell(f"systemctl start {unit}")
        began = time.monotonic()
        self.login_node.run("systemctl", "start", unit)
        self.tell(f"ready after {time.monotonic() - began:.1f} s")
        registration = f"/var/lib/globus-compute-endpoint/{name}/gateway/endpoint.json"
        return str(json.loads(self.login_node.read(registration))["endpoint_id"])
