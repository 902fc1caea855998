# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import socket

from globus_compute_endpoint.host import packets


async def exchange(send, expect):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    received, ended = [], asyncio.Event()
    enough = asyncio.Event()

    def on_packet(packet):
        received.append(packet)
        if len(received) == expect:
            enough.set()

    channel = packets.PacketChannel(ours, on_packet, ended.set)
    await asyncio.to_thread(send, theirs)
    async with asyncio.timeout(5):
        await (enough if expect else ended).wait()
    channel.close()
    theirs.close()
    return received


def test_frames_come_whole_and_with_their_descriptors():
    def send(theirs):
        reader, writer = os.pipe()
        theirs.send(b"one")
        socket.send_fds(theirs, [b"two"], [writer])
        os.close(writer)
        os.close(reader)

    one, two = asyncio.run(exchange(send, 2))
    assert (one.data, one.descriptors) == (b"one", [])
    assert two.data == b"two"
    assert len(two.descriptors) == 1
    assert not os.get_inheritable(two.descriptors[0])
    two.close()


def test_a_frame_that_does_not_fit_ends_the_connection():
    def send(theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * packets.MAX_FRAME)
        theirs.send(b"x" * (packets.MAX_FRAME + 1))

    assert asyncio.run(exchange(send, 0)) == []


def test_a_peer_that_does_not_read_is_cut_off():
    async def flood():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ended = asyncio.Event()
        channel = packets.PacketChannel(ours, lambda _: None, ended.set, max_queued=8)
        for _ in range(1000):
            channel.send(b"x" * 1000)
        assert ended.is_set()
        assert not channel.is_open
        theirs.close()

    asyncio.run(flood())


def test_only_who_may_can_connect(tmp_path):
    async def attempt():
        listener = packets.listen(tmp_path / "s", 0o600)
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        connection = await packets.connect(tmp_path / "s")
        accepted, _ = listener.accept()
        peer = packets.peer_of(accepted)
        assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
        for each in (listener, connection, accepted):
            each.close()

    asyncio.run(attempt())
