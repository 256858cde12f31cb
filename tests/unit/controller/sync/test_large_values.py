"""Chunks over real sessions: asked for with the events that name them, passed on upwards when they come, and the
acknowledgement that waits for them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from controller.sync import large_values
from controller.values import ChunkMissing, ValueStore
from federation.identifiers import Lane, Origin, StreamId
from souverix.fleet.v1 import observation_pb2
from tests.unit.controller.sync.tree import Place, Tree, until


def store_of(place: Place) -> ValueStore:
    """The controller's store, as its process uses it."""
    return ValueStore(place.config.controller.data_dir / "values")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def path_of(place: Place, digest: str) -> Path:
    name = digest.partition(":")[2]
    return place.config.controller.data_dir / "values" / name[:2] / name


async def observe(place: Place, node: str, *chunks: bytes, stored: bool = True) -> StreamId:
    """Commits an inventory that names these chunks; the stream it stands in."""
    value = observation_pb2.LargeValueRef(name="packages", digest="sha256:whole")
    for data in chunks:
        value.chunks.add(digest=digest_of(data), size_bytes=len(data))
        if stored:
            await store_of(place).put(digest_of(data), data)
    inventory = observation_pb2.Inventory(large_values=[value])
    await place.replica.journal().submit(
        lambda p: p.write(
            place.domain, f"nodes/{node}", "inventory", inventory, principal=f"node:{node}"
        )
    )
    origin = Origin(place.controller, place.replica.incarnation)
    return StreamId(place.domain, origin, Lane.TELEMETRY)


def acknowledged(place: Place, stream: StreamId) -> int:
    """How far the parent acknowledged a stream to this controller."""
    parent = place.links.parent
    return parent.session.acked.get(stream, 0) if parent is not None else 0


async def test_chunks_come_with_the_event_and_then_it_is_acknowledged(pair: Tree) -> None:
    stream = await observe(pair["zone"], "n1", b"one", b"two")
    await until(lambda: acknowledged(pair["zone"], stream) == 1, "the acknowledgement")
    for data in (b"one", b"two"):
        assert await store_of(pair["global"]).get(digest_of(data)) == data


async def test_more_chunks_than_may_be_under_way_all_come(
    pair: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_values, "ASKED_AT_ONCE", 3)
    chunks = [f"chunk {number}".encode() for number in range(20)]
    stream = await observe(pair["zone"], "n1", *chunks)
    await until(lambda: acknowledged(pair["zone"], stream) == 1, "the acknowledgement")
    assert await store_of(pair["global"]).missing(map(digest_of, chunks)) == []


async def test_an_event_whose_chunk_cannot_be_stored_is_not_acknowledged(pair: Tree) -> None:
    zone, top = pair["zone"], pair["global"]
    blocked = path_of(top, digest_of(b"blocked"))
    blocked.parent.parent.mkdir(parents=True, exist_ok=True)
    blocked.parent.write_text("a file where the store's directory should be")
    stream = await observe(zone, "n1", b"free")
    await until(lambda: acknowledged(zone, stream) == 1, "the first acknowledgement")
    await observe(zone, "n2", b"blocked")
    await observe(zone, "n3", b"free")
    await until(lambda: top.replica.state.received(stream) == 3, "the events above")
    await zone.write("zone", "later")
    await until(lambda: top.knows("zone", "later"), "what comes later")
    assert acknowledged(zone, stream) == 1
    assert zone.links.parent is not None
    assert not zone.links.parent.session.is_level

    blocked.parent.unlink()
    parent = zone.links.parent
    parent.close(0, "the test begins a new session")
    await until(lambda: acknowledged(zone, stream) == 3, "the acknowledgement in a new session")
    assert blocked.read_bytes() == b"blocked"


async def test_a_chunk_that_the_origin_has_lost_does_not_hold_up_its_stream(pair: Tree) -> None:
    stream = await observe(pair["zone"], "n1", b"lost", stored=False)
    await until(lambda: acknowledged(pair["zone"], stream) == 1, "the acknowledgement")
    assert await store_of(pair["global"]).missing([digest_of(b"lost")])


async def test_a_parent_that_asks_before_the_child_has_brought_a_chunk_is_answered_when_it_comes(
    tree: Tree,
) -> None:
    tree.add("global")
    tree.add("region", "global")
    tree.add("zone", "region")
    await tree.start()
    stream = await observe(tree["zone"], "n1", b"far below")
    await until(lambda: acknowledged(tree["region"], stream) == 1, "the top's acknowledgement")
    assert await store_of(tree["global"]).get(digest_of(b"far below")) == b"far below"
    await until(
        lambda: tree["zone"].replica.durability.reached("global", stream) == 1,
        "the top's acknowledgement at the edge",
    )


async def test_a_chunk_that_comes_while_it_is_looked_for_is_sent_on(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.add("global")
    tree.add("region", "global")
    tree.add("zone", "region")
    await tree.start()
    zone, region = tree["zone"], tree["region"]
    stream = StreamId("zone", Origin(zone.controller, zone.replica.incarnation), Lane.TELEMETRY)
    digest, get, put = digest_of(b"just in time"), ValueStore.get, ValueStore.put
    await put(store_of(zone), digest, b"just in time")
    looked = []

    async def get_late(store: ValueStore, wanted: str) -> bytes:
        try:
            return await get(store, wanted)
        except ChunkMissing:
            looked.append(wanted)
            await until(lambda: acknowledged(zone, stream) == 1, "the chunk at the region")
            raise

    async def put_late(store: ValueStore, wanted: str, data: bytes) -> None:
        await until(lambda: looked, "the question from above")
        await put(store, wanted, data)

    monkeypatch.setattr(ValueStore, "get", get_late)
    monkeypatch.setattr(ValueStore, "put", put_late)
    await observe(zone, "n1", b"just in time", stored=False)
    await until(lambda: acknowledged(region, stream) == 1, "the top's acknowledgement")
    assert looked == [digest]
    assert await get(store_of(tree["global"]), digest) == b"just in time"
