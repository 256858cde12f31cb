from __future__ import annotations

import pytest

from controller.sync.outgoing import MAX_BYTES, MAX_FRAMES, Outgoing, TooSlow
from souverix.sync.v1 import sync_pb2

FRAME = sync_pb2.Frame(heartbeat=sync_pb2.Heartbeat())


async def test_frames_come_out_in_order_and_then_the_end() -> None:
    outgoing = Outgoing()
    frames = [sync_pb2.Frame(credit=sync_pb2.Credit(bytes=n)) for n in range(3)]
    for frame in frames:
        outgoing.put(frame)
    outgoing.close()
    outgoing.close()
    outgoing.put(FRAME)
    assert [await outgoing.get() for _ in range(4)] == [*frames, None]


async def test_more_frames_than_the_bound_are_refused_until_some_were_sent() -> None:
    outgoing = Outgoing()
    for _ in range(MAX_FRAMES):
        outgoing.put(FRAME)
    with pytest.raises(TooSlow, match="too slowly"):
        outgoing.put(FRAME)
    await outgoing.get()
    outgoing.put(FRAME)


async def test_more_bytes_than_the_bound_are_refused_until_some_were_sent() -> None:
    outgoing = Outgoing()
    outgoing.put(FRAME, MAX_BYTES)
    with pytest.raises(TooSlow):
        outgoing.put(FRAME, 1)
    outgoing.put(FRAME)
    await outgoing.get()
    outgoing.put(FRAME, 1)
