"""Who is refused, which frames are out of place, and how a session ends."""

from __future__ import annotations

import pytest

from federation.identifiers import Lane, StreamId
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below
from tests.unit.federation.session_wire import Side, connected, exchange, opened


def test_peer_that_is_not_configured_is_refused(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = opened(region, root, parent_settings={"peers": {"someone-else": ""}})
    exchange(below, above)
    for side in (below, above):
        assert side.closed is not None
        assert side.closed.reason == sync_pb2.GOODBYE_REASON_UNKNOWN_PEER
    assert below.live == above.live == 0


def test_peer_of_another_domain_than_configured_is_refused(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = opened(region, root, parent_settings={"peers": {region.name: "region-b"}})
    exchange(below, above)
    assert above.closed is not None
    assert above.closed.reason == sync_pb2.GOODBYE_REASON_UNKNOWN_PEER


def test_peer_without_a_common_version_is_refused(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    _, above = opened(region, root)
    hello = sync_pb2.Hello(versions=[99], controller=region.name, domain="region-a")
    above.take(sync_pb2.Frame(hello=hello))
    assert above.closed is not None
    assert above.closed.reason == sync_pb2.GOODBYE_REASON_VERSION


class Crowded:
    """Admits nobody now."""

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        return 1234

    def replayed(self, controller: str) -> None: ...


def test_too_many_replays_are_sent_away_with_a_time_to_come_back(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = opened(region, root, parent_settings={"admission": Crowded()})
    exchange(below, above)
    assert below.closed is not None
    assert below.closed.reason == sync_pb2.GOODBYE_REASON_BUSY
    assert below.closed.retry_after_ms == 1234


FRAMES = {
    "hello": sync_pb2.Frame(hello=sync_pb2.Hello()),
    "have_digests": sync_pb2.Frame(have_digests=sync_pb2.HaveDigests()),
    "have_positions": sync_pb2.Frame(have_positions=sync_pb2.HavePositions()),
    "runs": sync_pb2.Frame(runs=sync_pb2.Runs()),
    "ack": sync_pb2.Frame(ack=sync_pb2.Ack()),
    "credit": sync_pb2.Frame(credit=sync_pb2.Credit()),
    "forward": sync_pb2.Frame(forward=sync_pb2.Forward()),
    "want_chunks": sync_pb2.Frame(want_chunks=sync_pb2.WantChunks()),
    "heartbeat": sync_pb2.Frame(heartbeat=sync_pb2.Heartbeat()),
    "none": sync_pb2.Frame(),
}


@pytest.mark.parametrize("kind", sorted(set(FRAMES) - {"hello"}))
def test_anything_but_a_greeting_at_the_start_ends_the_session(
    root: MemoryController, kind: str
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    _, above = opened(region, root)
    assert_out_of_place(above, kind)


@pytest.mark.parametrize("kind", ["hello", "have_digests", "have_positions", "none"])
def test_frames_of_the_beginning_are_out_of_place_later(root: MemoryController, kind: str) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    _, above = connected(region, root)
    assert_out_of_place(above, kind)


def assert_out_of_place(side: Side, kind: str) -> None:
    side.take(FRAMES[kind])
    assert side.closed is not None
    assert side.closed.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
    assert kind in side.closed.message
    assert side.kinds_sent()[-1] == "goodbye"


def test_runs_under_a_number_never_named_end_the_session(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    _, above = connected(region, root)
    runs = sync_pb2.Runs(runs=[sync_pb2.InternedRun(stream_index=5)])
    above.take(sync_pb2.Frame(runs=runs))
    assert above.closed is not None
    assert above.closed.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR


def test_forwards_and_chunks_are_the_drivers_to_handle(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    _, above = connected(region, root)
    frames = [FRAMES["forward"], FRAMES["want_chunks"]]
    for frame in frames:
        above.take(frame)
    assert above.passed == frames
    assert above.closed is None


def test_goodbye_ends_the_session_with_the_peers_reason(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    below.carry_out(below.session.close(sync_pb2.GOODBYE_REASON_SHUTDOWN, "going down"))
    exchange(below, above)
    assert above.closed is not None
    assert above.closed.reason == sync_pb2.GOODBYE_REASON_SHUTDOWN
    assert "going down" in above.closed.message


def test_closed_session_does_nothing_more(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    below.carry_out(below.session.close(sync_pb2.GOODBYE_REASON_SHUTDOWN, "going down"))
    exchange(below, above)
    session, now = below.session, region.now_ms
    region.write_policy("region-a", "v1")
    stream = StreamId("region-a", region.identity.origin, Lane.CONTROL)
    assert session.received(FRAMES["heartbeat"], now, 0) == []
    assert session.advanced(now, tree_changed=True) == []
    assert session.ingested([stream], 1, now) == []
    assert session.read([event_pb2.Commit()], now) == []
    assert session.tick(now + 1_000_000, 0) == []
    assert session.level_told(now, 0) == []
    assert session.durable_above(ROOT, {stream: 1}, now) == []
    assert session.close(0, "again") == []
    assert not session.is_level
