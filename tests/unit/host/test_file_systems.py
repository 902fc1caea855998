# SPDX-License-Identifier: Apache-2.0
"""File systems are told apart by what a journal needs of them."""

from pathlib import Path

import pytest

from globus_compute_endpoint.host.file_systems import FileSystem, Kind, file_system_of, find_mount

_MOUNTS = r"""
22 28 0:21 / /proc rw,relatime shared:12 - proc proc rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 28 0:26 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2,hard
32 31 0:27 / /home/with\040blank rw,nosuid - fuse.sshfs far:/ rw,user_id=1000
33 31 0:28 / /home rw - autofs systemd-1 rw
34 28 0:29 /of/it /scratch rw,relatime - lustre 10.0.0.1@tcp:/scratch rw
"""


@pytest.mark.parametrize(
    ("mount", "kind", "point"),
    [
        ("28", Kind.LOCAL, "/"),
        ("31", Kind.NETWORK, "/home"),
        ("32", Kind.NETWORK, "/home/with blank"),
        ("34", Kind.NETWORK, "/scratch"),
        ("99", Kind.LOCAL, "/"),
    ],
)
def test_mounts_are_found_by_their_numbers(mount: str, kind: Kind, point: str):
    found = find_mount(mount, _MOUNTS)
    assert (found.kind, found.mount_point) == (kind, Path(point))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ext4", Kind.LOCAL),
        ("xfs", Kind.LOCAL),
        ("overlay", Kind.LOCAL),
        ("fuseblk", Kind.LOCAL),
        ("nfs", Kind.NETWORK),
        ("beegfs", Kind.NETWORK),
        ("fuse", Kind.NETWORK),
        ("fuse.bindfs", Kind.NETWORK),
        ("tmpfs", Kind.VOLATILE),
        ("ramfs", Kind.VOLATILE),
    ],
)
def test_kinds(name: str, kind: Kind):
    assert FileSystem(name, Path("/x")).kind is kind


def test_directories_of_this_machine(tmp_path: Path):
    """Whatever this machine is: its own memory is volatile, and links are followed."""
    link = tmp_path / "link"
    link.symlink_to("/proc/self")
    assert file_system_of(link).type == "proc"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split(" ")
        if kind == "tmpfs" and Path(point).is_dir():
            assert file_system_of(Path(point)).kind is Kind.VOLATILE
            break
    with pytest.raises(FileNotFoundError):
        file_system_of(tmp_path / "missing")
