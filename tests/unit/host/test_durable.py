# SPDX-License-Identifier: Apache-2.0
"""Files which are replaced as a whole."""

import errno
from pathlib import Path

import pytest

from globus_compute_endpoint.host.durable import replace_file


def test_it_has_the_new_content_and_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "record"
    replace_file(path, b"a longer one", 0o600)
    replace_file(path, b"short", 0o600)
    assert path.read_bytes() == b"short"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_one_stays_where_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "record"
    replace_file(path, b"old")
    path.with_suffix(".new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        replace_file(path, b"new")
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
