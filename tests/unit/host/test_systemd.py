# SPDX-License-Identifier: Apache-2.0
from jeepney import DBusAddress, HeaderFields, new_signal

from globus_compute_endpoint.host.systemd import ServiceManager

MANAGER = DBusAddress("/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager")


def job_removed(sender, signature="uoss", body=(1, "/job/1", "x.scope", "done")):
    signal = new_signal(MANAGER, "JobRemoved", signature, body)
    signal.header.fields[HeaderFields.sender] = sender
    return signal


def test_only_systemds_word_about_jobs_counts():
    manager = ServiceManager()
    manager._owner = ":1.1"
    manager._calls_awaiting_job = 1
    manager._signal(job_removed(":1.666"))
    manager._signal(job_removed(":1.666", "s", ("boo",)))
    manager._signal(job_removed(":1.1", "s", ("boo",)))
    assert manager._early_jobs == {}
    manager._signal(job_removed(":1.1"))
    assert manager._early_jobs == {"/job/1": "done"}
