# SPDX-License-Identifier: Apache-2.0
"""A new version of the packages, while users' functions run."""

from support.waiting import until
from system.test_units import disturb, main_pids

SERVICES_UNIT = "globus-compute-services.service"


def test_users_work_outlives_an_upgrade(warm):
    def services_pid():
        return warm.property(SERVICES_UNIT, "MainPID", warm.services)

    def upgrade():
        for host in (warm.host, warm.services):
            packages = host.run("find", "/root/packages", "-name", "*.deb").stdout.split()
            host.run("dpkg", "--install", *packages)

    units, services = main_pids(warm), services_pid()
    before, during, after = disturb(warm, upgrade)
    assert before == during == after
    assert not set(units.values()) & set(main_pids(warm).values())
    until(lambda: warm.property(SERVICES_UNIT, "ActiveState", warm.services) == "active")
    assert services_pid() != services
