# SPDX-License-Identifier: Apache-2.0
"""One warm site of three machines, for all tests here that do not need hosts of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from system.hosts import Host
from system.researcher import Researcher
from system.site import Site, sdk_environment, three_machines

LOCAL_USERS = ("alice", "bob")


@dataclass
class WarmSite:
    """A site that runs, and the people at it. ``host`` is the login node."""

    host: Host
    laptop: Host
    services: Host
    site: Site
    sdk: Path
    name: str
    endpoint_id: str
    researcher: Callable[[str], Researcher]
    uids: dict[str, int] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return f"globus-compute-endpoint@{self.name}"

    def property(self, unit: str, name: str, host: Host | None = None) -> str:
        """A property of a unit, as `systemctl show` has it; of the login node's, unless it says."""
        return (
            (host or self.host).run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()
        )

    def scopes(self) -> list[str]:
        """The scopes of user endpoints which run now."""
        pattern = "globus-compute-uep-*.scope"
        command = ("systemctl", "list-units", "--plain", "--no-legend", "--type=scope", pattern)
        return [line.split()[0] for line in self.host.run(*command).stdout.splitlines()]


@contextlib.contextmanager
def warm_site(name: str) -> Iterator[WarmSite]:
    """Set a site up, with users and an endpoint that runs; take it down with the context."""
    sdk = sdk_environment()
    with three_machines(name, sdk) as machines:
        site = Site(machines)
        site.install()
        site.start_services()
        uids = {name: site.login_node.add_user(name) for name in LOCAL_USERS}
        site.configure_endpoint("hpc", site.create_client("gateway"))
        endpoint_id = site.start_endpoint("hpc")
        people: dict[str, Researcher] = {}

        def researcher(name: str) -> Researcher:
            if name not in people:
                client = site.create_client(name)
                people[name] = Researcher(site.laptop, name, client, sdk, endpoint_id)
            return people[name]

        hosts = (machines.login_node, machines.laptop, machines.services)
        yield WarmSite(*hosts, site, sdk, "hpc", endpoint_id, researcher, uids)


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmSite]:
    with warm_site("site") as made:
        yield made
