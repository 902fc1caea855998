# SPDX-License-Identifier: Apache-2.0
"""What kind of file system a directory is on, as far as a database in it is concerned."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["FileSystem", "Kind", "file_system_of", "find_mount"]

# As mountinfo names them; fuse.* is taken apart below.
_NETWORK = frozenset(
    """9p acfs afs beegfs ceph cifs coda fhgfs fuse gfs2 glusterfs gpfs lustre mmfs ncpfs nfs nfs4
    ocfs2 orangefs panfs pvfs2 smb3 smbfs virtiofs vboxsf wekafs""".split()  # noqa: SIM905  (to be read)
)
_VOLATILE = frozenset(["devtmpfs", "hugetlbfs", "ramfs", "tmpfs"])
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Kind(StrEnum):
    """What can be relied on."""

    LOCAL = "local"  # survives a power loss, shares memory between processes
    NETWORK = "network"  # survives ours, but neither locks nor shared memory are sure to work
    VOLATILE = "volatile"  # gone with the next boot


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system: ``type`` as in proc_pid_mountinfo(5), such as ``fuse.sshfs``."""

    type: str
    mount_point: Path

    @property
    def kind(self) -> Kind:
        """What can be relied on; unknown ones, which are mostly local, count as local.

        What FUSE mounts is sshfs more often than not, and where it is not, it is a program, which
        may lack what a database in shared memory needs.
        """
        if self.type in _VOLATILE:
            return Kind.VOLATILE
        if self.type in _NETWORK or self.type.startswith("fuse."):
            return Kind.NETWORK
        return Kind.LOCAL


def file_system_of(directory: Path) -> FileSystem:
    """Return the file system which ``directory`` is on.

    By the mount's number, not by its path: mounts hide one another, and paths have links in them.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    (mount,) = [line.split()[1] for line in about.splitlines() if line.startswith("mnt_id:")]
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return find_mount(mount, table)


def find_mount(mount: str, mountinfo: str) -> FileSystem:
    """Return the file system of the mount with this number; of one that is hidden, no more."""
    for line in mountinfo.splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if fields[0] == mount:
            return FileSystem(after.split(" ")[0], Path(_ESCAPED.sub(_unescape, fields[4])))
    return FileSystem("unknown", Path("/"))


def _unescape(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 8))
