"""Credit for what is under way, and what a side is told of where its events are durable."""

from __future__ import annotations

from federation.credit import MAX_CREDIT_BYTES
from federation.greeting import CREDIT_BYTES
from federation.identifiers import Lane, StreamId
from souverix.fleet.v1 import observation_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below
from tests.unit.federation.session_wire import connected, exchange, opened, write_node


def test_no_more_is_sent_than_the_peer_gave_credit_for(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    above.holds_ingests = True
    for _ in range(40):
        write_node(region, "region-a", size=100_000)
    below.wake()
    exchange(below, above)

    in_flight = sum(len(e) for run in below.runs_sent() for e in run.events)
    assert CREDIT_BYTES <= in_flight < CREDIT_BYTES + 256 * 1024
    assert root.state.received(StreamId("region-a", region.identity.origin, Lane.STATE)) == 0

    above.holds_ingests = False
    for effect in above.held:
        above.ingest(effect)
    exchange(below, above)
    assert root.state.received(StreamId("region-a", region.identity.origin, Lane.STATE)) == 40
    assert below.session.is_level


def test_peer_that_sends_more_than_it_was_given_credit_for_is_sent_away(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    above.holds_ingests = True
    below.session._credit._left = 1 << 40  # It does not keep to what it was given.
    for _ in range(40):
        write_node(region, "region-a", size=100_000)
    below.wake()
    exchange(below, above)
    assert above.closed is not None
    assert above.closed.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
    assert "credit" in above.closed.message


def test_credit_without_measure_is_cut(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, _ = connected(region, root)
    below.take(sync_pb2.Frame(credit=sync_pb2.Credit(bytes=1 << 62)))
    for _ in range(200):
        write_node(region, "region-a", size=100_000)
    below.wake()
    in_flight = sum(len(e) for run in below.runs_sent() for e in run.events)
    assert MAX_CREDIT_BYTES <= in_flight < MAX_CREDIT_BYTES + 256 * 1024


def test_events_are_acknowledged_only_once_they_are_durable(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    above.holds_ingests = True
    region.write_policy("region-a", "v1")
    stream = StreamId("region-a", region.identity.origin, Lane.CONTROL)
    below.wake()
    exchange(below, above)
    assert below.session.acked.get(stream, 0) == 0
    assert below.session.debt(region.now_ms).events == 1

    above.ingest(above.held[0])
    exchange(below, above)

    assert below.session.acked[stream] == 1
    assert below.acknowledged[-1].domain == ROOT
    assert below.acknowledged[-1].positions == {stream: 1}
    assert below.session.debt(region.now_ms).events == 0


def test_what_the_peer_held_before_is_acknowledged_at_the_start(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    region.write_policy("region-a", "v1")
    connected(region, root)
    below, _ = connected(region, root)
    stream = StreamId("region-a", region.identity.origin, Lane.CONTROL)
    assert below.acknowledged[0].domain == ROOT
    assert below.acknowledged[0].positions[stream] == 1


def test_position_beyond_what_is_held_acknowledges_no_more_than_is_held(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    region.write_policy("region-a", "v1")
    stream = StreamId("region-a", region.identity.origin, Lane.CONTROL)
    below, above = opened(region, root)
    below.outgoing.clear()
    hello = sync_pb2.Hello(versions=[1], controller=root.name, domain=ROOT, credit_bytes=1000)
    below.take(sync_pb2.Frame(hello=hello))
    below.take(sync_pb2.Frame(have_digests=sync_pb2.HaveDigests(last=True)))
    ahead = sync_pb2.StreamPosition(stream=region.commits[-1].runs[0].stream, sequence=99)
    below.take(sync_pb2.Frame(have_positions=sync_pb2.HavePositions(positions=[ahead], last=True)))
    assert above.closed is None
    assert below.acknowledged[0].positions[stream] == 1


def write_inventory(controller: MemoryController, domain: str, digest: str) -> StreamId:
    inventory = observation_pb2.Inventory(
        large_values=[observation_pb2.LargeValueRef(name="packages", digest=digest)]
    )
    controller.submit(
        lambda p: p.write(domain, "nodes/n1", "inventory", inventory, principal="node:n1")
    )
    return StreamId(domain, controller.identity.origin, Lane.TELEMETRY)


def test_telemetry_is_acknowledged_once_its_large_values_are_here_and_holds_no_credit(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root, parent_settings={"keeps_values": True})
    above.carry_out(above.session.values_compared(root.now_ms))
    stream = write_inventory(region, "region-a", "first")
    write_inventory(region, "region-a", "second")
    above.session.hold(stream, 2, ["second"])
    below.wake()
    exchange(below, above)
    assert root.state.received(stream) == 2
    assert below.session.acked[stream] == 1
    assert not below.session.is_level
    returned = sum(f.credit.bytes for f in above.sent if f.HasField("credit"))
    assert returned == sum(len(e) for run in below.runs_sent() for e in run.events)

    above.carry_out(above.session.value_settled("second", root.now_ms))
    exchange(below, above)
    assert below.session.acked[stream] == 2
    assert below.session.is_level


def test_a_position_acknowledges_telemetry_only_after_its_large_values_were_compared(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    stream = write_inventory(region, "region-a", "first")
    connected(region, root)
    below, above = connected(region, root, parent_settings={"keeps_values": True})
    assert stream not in below.session.acked
    assert all(stream not in each.positions for each in below.acknowledged)
    assert not below.runs_sent()
    above.session.hold(stream, 1, ["first"])
    above.carry_out(above.session.values_compared(root.now_ms))
    exchange(below, above)
    assert below.session.acked.get(stream, 0) == 0
    above.carry_out(above.session.value_settled("first", root.now_ms))
    exchange(below, above)
    assert below.session.acked[stream] == 1
    assert below.session.is_level


def test_higher_levels_acknowledgements_go_down_to_whom_they_concern(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.write_policy("edge-a1", "v1")
    below, above = connected(zone, region)
    own = StreamId("edge-a1", zone.identity.origin, Lane.CONTROL)
    regions = StreamId("region-a", root.identity.origin, Lane.CONTROL)

    above.carry_out(above.session.durable_above(ROOT, {own: 1, regions: 4}, region.now_ms))
    exchange(below, above)

    assert below.acknowledged[-1].domain == ROOT
    assert below.acknowledged[-1].positions == {own: 1}
    assert below.session.acked[own] == 1


def test_acknowledgements_of_higher_levels_are_paged(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    _, above = connected(region, root)
    above.sent.clear()
    many = {
        StreamId("region-a", region.identity.origin._replace(incarnation=n), Lane.STATE): 1
        for n in range(1, 2502)
    }
    above.carry_out(above.session.durable_above("higher", many, root.now_ms))
    assert [len(frame.ack.streams) for frame in above.sent] == [1000, 1000, 501]


def test_acknowledgement_of_an_unknown_stream_number_ends_the_session(
    root: MemoryController, region: MemoryController
) -> None:
    below, _ = connected(region, root)
    ack = sync_pb2.Ack(durable_at=ROOT, streams=[sync_pb2.StreamAck(stream_index=77, sequence=1)])
    below.take(sync_pb2.Frame(ack=ack))
    assert below.closed is not None
    assert below.closed.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
