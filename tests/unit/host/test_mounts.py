# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from globus_compute_endpoint.host.mounts import is_mount_point
from globus_compute_endpoint.host.paths import WORK_MARKER, holds_work


def test_mount_points_are_known_without_asking_them(tmp_path: Path) -> None:
    assert is_mount_point(Path("/proc"))
    assert not is_mount_point(Path("/proc/self"))
    assert not is_mount_point(tmp_path / "missing")


def test_the_marker_tells_of_work(tmp_path: Path) -> None:
    assert not holds_work(tmp_path / "missing")
    assert not holds_work(tmp_path)
    (tmp_path / WORK_MARKER).symlink_to("nowhere")  # what it is does not matter, nor is it followed
    assert holds_work(tmp_path)
