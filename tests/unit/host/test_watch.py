# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest

from globus_compute_endpoint.host.watch import FileWatch


@pytest.mark.parametrize("replace", [False, True])
def test_a_written_or_replaced_file_is_noticed_once(tmp_path, replace):
    path = tmp_path / "mapping.json"
    path.write_text("old")

    async def change():
        changed = asyncio.Event()
        calls = []

        def on_change() -> None:
            calls.append(1)
            changed.set()

        watch = FileWatch(path, on_change)
        if replace:
            (tmp_path / "new").write_text("new")
            (tmp_path / "new").replace(path)
        else:
            path.write_text("new")
            path.write_text("newer")
        async with asyncio.timeout(5):
            await changed.wait()
        watch.close()
        assert calls == [1]

    asyncio.run(change())
