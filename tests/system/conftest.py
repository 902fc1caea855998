# SPDX-License-Identifier: Apache-2.0
"""One warm site for all tests of this directory that do not need a host of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from system.hosts import Host
from system.researcher import Researcher
from system.site import Site, sdk_environment

LOCAL_USERS = ("alice", "bob")


@dataclass
class WarmSite:
    """A site that runs, and the people at it."""

    host: Host
    site: Site
    name: str
    endpoint_id: str
    researcher: Callable[[str], Researcher]
    uids: dict[str, int] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return f"globus-compute-endpoint@{self.name}"

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.host.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def scopes(self) -> list[str]:
        """The scopes of user endpoints which run now."""
        pattern = "globus-compute-uep-*.scope"
        command = ("systemctl", "list-units", "--plain", "--no-legend", "--type=scope", pattern)
        return [line.split()[0] for line in self.host.run(*command).stdout.splitlines()]


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmSite]:
    sdk = sdk_environment()
    with Host("site", binds=[sdk]) as host:
        site = Site(host)
        site.install()
        site.start_services()
        uids = {name: host.add_user(name) for name in LOCAL_USERS}
        site.configure_endpoint("hpc", site.create_client("gateway"))
        endpoint_id = site.start_endpoint("hpc")
        people: dict[str, Researcher] = {}

        def researcher(name: str) -> Researcher:
            if name not in people:
                client = site.create_client(name)
                people[name] = Researcher(host, name, client, sdk, endpoint_id)
            return people[name]

        yield WarmSite(host, site, "hpc", endpoint_id, researcher, uids)
