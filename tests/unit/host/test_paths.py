# SPDX-License-Identifier: Apache-2.0
"""What the manager can tell of a user endpoint's state without opening the user's files."""

from pathlib import Path

from globus_compute_endpoint.host.paths import WORK_MARKER, holds_work


def test_a_marker_tells_of_work_whatever_the_user_made_of_it(tmp_path: Path):
    assert not holds_work(tmp_path)
    assert not holds_work(tmp_path / "gone")
    (tmp_path / WORK_MARKER).symlink_to("/nowhere")
    assert holds_work(tmp_path)
