# SPDX-License-Identifier: Apache-2.0
"""A new version of the packages, while users' functions run."""

from system.test_units import disturb, main_pids, until

SERVICES_UNIT = "globus-compute-services.service"


def test_users_work_outlives_an_upgrade(warm):
    units, services = main_pids(warm), warm.property(SERVICES_UNIT, "MainPID")
    packages = warm.host.run("find", "/root/packages", "-name", "*.deb").stdout.split()
    before, during, after = disturb(warm, ("dpkg", "--install", *packages))
    assert before == during == after
    assert not set(units.values()) & set(main_pids(warm).values())
    until(lambda: warm.property(SERVICES_UNIT, "ActiveState") == "active")
    assert warm.property(SERVICES_UNIT, "MainPID") != services
