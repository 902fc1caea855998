# SPDX-License-Identifier: Apache-2.0
"""Where the three machines of a site are: a researcher's laptop, the services, the login node.

Routed addresses, no shared network, and between them a firewall as sites have one: the services can
be reached on port 443, and nothing else can.
"""

from __future__ import annotations

from system.hosts import Link, filter_network

LAPTOP = "192.0.2.20"
LOGIN_NODE = "198.51.100.5"
# Two addresses, so that both can have port 443.
COMPUTE = "203.0.113.10"
BROKER = "203.0.113.11"

COMPUTE_NAME = "compute.site.example"
BROKER_NAME = "broker.site.example"
SITE_NAMES = {COMPUTE_NAME: COMPUTE, BROKER_NAME: BROKER}
# What a site's private name service says of the hosted services, so that the stock SDK comes here.
SDK_NAMES = {"compute.api.globus.org": COMPUTE, "auth.globus.org": COMPUTE}

RULES = f"""
table inet firewall {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ip daddr {{ {COMPUTE}, {BROKER} }} tcp dport 443 accept
        reject with icmpx type admin-prohibited
    }}
}}
"""


def laptop_link(network: str) -> Link:
    return Link(network, [LAPTOP], SITE_NAMES | SDK_NAMES)


def services_link(network: str) -> Link:
    return Link(network, [COMPUTE, BROKER], SITE_NAMES)


def login_node_link(network: str) -> Link:
    return Link(network, [LOGIN_NODE], SITE_NAMES)


def put_up_firewall(network: str) -> None:
    """To be called when the hosts are up: it is the router that filters."""
    filter_network(network, RULES)
