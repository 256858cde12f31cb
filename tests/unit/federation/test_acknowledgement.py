"""How far streams are durable on the two sides of a session; with a whole session: `test_session_acknowledgement`."""

from __future__ import annotations

import pytest

from federation.acknowledgement import Acknowledgements
from federation.codec import stream_to_message
from federation.errors import PeerError
from federation.identifiers import Lane, StreamId
from federation.inbox import Inbox
from federation.link_scope import LinkScope
from federation.outbox import Outbox
from federation.session_settings import PeerRole
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below
from tests.unit.federation.session_wire import write_node

NOW_MS = 1_000


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    region = controller_below(root, "region-a-control", "region-a")
    write_node(region, "region-a")
    write_node(region, "region-a")
    return region


@pytest.fixture
def own(region: MemoryController) -> StreamId:
    """A stream of the region's with two events."""
    return StreamId("region-a", region.identity.origin, Lane.STATE)


def towards_the_root(region: MemoryController, *, keeps_values: bool = False) -> Acknowledgements:
    state = region.state
    scope = LinkScope(state.authority, "region-a", PeerRole.PARENT, frozenset())
    scope.peer_domain = ROOT
    outbox = Outbox(state, scope.is_sent, 0, 1 << 20)
    inbox = Inbox(scope.may_bring)
    return Acknowledgements(state, "region-a", scope, outbox, inbox, keeps_values=keeps_values)


def ack(stream: StreamId, sequence: int, durable_at: str = ROOT) -> sync_pb2.Ack:
    entry = sync_pb2.StreamAck(stream=stream_to_message(stream), sequence=sequence)
    return sync_pb2.Ack(durable_at=durable_at, streams=[entry])


def test_a_peer_acknowledges_no_more_than_is_held(region: MemoryController, own: StreamId) -> None:
    both = towards_the_root(region)
    assert both.take(ack(own, 99), ROOT, NOW_MS) == {own: 2}
    assert both.acked == {own: 2}


def test_acknowledgement_never_goes_back(region: MemoryController, own: StreamId) -> None:
    both = towards_the_root(region)
    both.take(ack(own, 2), ROOT, NOW_MS)
    both.take(ack(own, 1), ROOT, NOW_MS)
    both.position(own, 1)
    assert both.acked == {own: 2}


def test_acknowledgement_of_a_higher_level_is_not_the_peers(
    region: MemoryController, own: StreamId
) -> None:
    both = towards_the_root(region)
    assert both.take(ack(own, 2, durable_at="higher"), ROOT, NOW_MS) == {own: 2}
    assert both.acked == {}


def test_stream_number_that_was_never_used_is_refused(region: MemoryController) -> None:
    numbered = sync_pb2.Ack(durable_at=ROOT, streams=[sync_pb2.StreamAck(stream_index=7)])
    with pytest.raises(PeerError, match="number 7"):
        towards_the_root(region).take(numbered, ROOT, NOW_MS)


def test_debt_shrinks_with_what_is_acknowledged(region: MemoryController, own: StreamId) -> None:
    both = towards_the_root(region)
    before = both.debt(NOW_MS).events
    both.take(ack(own, 2), ROOT, NOW_MS)
    assert before - both.debt(NOW_MS).events == 2


def test_position_of_telemetry_is_no_acknowledgement(region: MemoryController) -> None:
    both = towards_the_root(region)
    telemetry = StreamId("region-a", region.identity.origin, Lane.TELEMETRY)
    both.position(telemetry, 3)
    assert both.acked == {}
    both.brought(telemetry, 3)
    assert both.acked == {telemetry: 3}


def test_telemetry_is_not_spoken_of_before_large_values_were_compared(
    region: MemoryController,
) -> None:
    both = towards_the_root(region, keeps_values=True)
    assert both.telemetry_frames() == []


def test_a_stream_named_twice_is_told_once(region: MemoryController, own: StreamId) -> None:
    [frame] = towards_the_root(region).frames([own, own])
    [told] = frame.ack.streams
    assert (frame.ack.durable_at, told.sequence) == ("region-a", 2)
