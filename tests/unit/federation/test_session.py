from __future__ import annotations

import pytest

from federation.greeting import CREDIT_BYTES
from federation.identifiers import Key, Lane, StreamId
from federation.proposal import Receipt
from federation.session import ALLOWED, MAX_CREDIT_BYTES, TRANSITIONS, Phase, Step
from federation.session_settings import HEARTBEAT_MS
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller
from tests.unit.federation.session_wire import Side, connected, exchange, opened


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    """A region whose domain is declared and who knows nothing of it yet."""
    made = MemoryController("region-a-control", "region-a", root.root_signer)
    root.declare("region-a", ROOT, made)
    return made


def write_node(controller: MemoryController, domain: str, size: int = 1) -> None:
    spec = node_pb2.NodeSpec(display_name="x" * size)
    controller.submit(lambda p: p.write(domain, "nodes/n1", "node_spec", spec, principal="user:a"))


def audit(controller: MemoryController, domain: str) -> None:
    controller.submit(
        lambda p: p.write(domain, f"audit/{controller.name}", "audit", {}, principal="user:a")
    )


def versions(controller: MemoryController, domain: str) -> set[str]:
    return {
        w.body().version for w in controller.state.siblings(Key(domain, "policies/p1", "policy"))
    }


# The tables.


def test_every_phase_but_the_last_has_a_way_on_and_a_way_out() -> None:
    for phase in Phase:
        leads_to = {edge.to for (at, _), edge in TRANSITIONS.items() if at is phase}
        if phase is Phase.CLOSED:
            assert leads_to == set()
        else:
            assert Phase.CLOSED in leads_to
    order = [
        TRANSITIONS[Phase.GREETING, Step.ADMITTED].to,
        TRANSITIONS[Phase.COMPARING, Step.COMPARED].to,
        TRANSITIONS[Phase.POSITIONING, Step.POSITIONED].to,
    ]
    assert order == [Phase.COMPARING, Phase.POSITIONING, Phase.SYNCING]


def test_tables_give_a_reason_for_each_entry() -> None:
    assert all(edge.reason for edge in TRANSITIONS.values())
    assert all(reason for kinds in ALLOWED.values() for reason in kinds.values())


def test_tables_name_frames_of_the_contract() -> None:
    kinds = {f.name for f in sync_pb2.Frame.DESCRIPTOR.oneofs_by_name["kind"].fields}
    allowed = {kind for phase in ALLOWED.values() for kind in phase}
    assert allowed == kinds - {"goodbye"}
    assert set(ALLOWED) == set(Phase)


# From the greeting to level.


def test_new_child_learns_its_place_and_both_become_level(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    below, above = connected(region, root)
    assert (below.session.phase, above.session.phase) == (Phase.SYNCING, Phase.SYNCING)
    assert (below.live, above.live) == (1, 1)
    assert region.state.authority.path_of("region-a") == (ROOT, "region-a")
    assert versions(root, "region-a") == {"v1"}
    assert below.session.is_level
    assert above.session.is_level
    assert (below.session.peer_level, above.session.peer_level) == (True, True)


def test_frames_of_the_beginning_come_in_their_order(
    root: MemoryController, region: MemoryController
) -> None:
    below, above = connected(region, root)
    for side in (below, above):
        assert side.kinds_sent()[:3] == ["hello", "have_digests", "have_positions"]


def test_commits_of_either_side_reach_the_other_as_they_come(
    root: MemoryController, region: MemoryController
) -> None:
    below, above = connected(region, root)
    region.write_policy("region-a", "up")
    below.wake()
    root.write_policy(ROOT, "down")
    above.wake()
    exchange(below, above)
    assert versions(root, "region-a") == {"up"}
    assert versions(region, ROOT) == {"down"}
    assert Receipt.GAP not in below.receipts + above.receipts


def test_both_sides_of_a_partition_converge_with_siblings_kept(
    root: MemoryController, region: MemoryController
) -> None:
    connected(region, root)
    region.write_policy("region-a", "of the region")
    root.write_policy("region-a", "of the root", optimistic=True)

    below, above = connected(region, root)

    assert versions(root, "region-a") == versions(region, "region-a")
    assert versions(root, "region-a") == {"of the region", "of the root"}
    assert root.state.conflicts.due.keys() == region.state.conflicts.due.keys()
    assert below.session.is_level
    assert above.session.is_level


def test_nothing_is_sent_again_over_a_new_session(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    connected(region, root)
    below, above = connected(region, root)
    assert below.runs_sent() == above.runs_sent() == []
    assert below.session.is_level


def test_level_domains_are_told_by_digest_alone(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    connected(region, root)
    write_node(root, ROOT)
    below, _ = connected(region, root)
    [positions] = [f.have_positions for f in below.sent if f.HasField("have_positions")]
    assert {p.stream.domain for p in positions.positions} == {ROOT}


def test_session_goes_on_where_a_cut_one_left_off(
    root: MemoryController, region: MemoryController
) -> None:
    connected(region, root)
    for number in range(30):
        write_node(region, "region-a", size=60_000)
        region.write_policy("region-a", f"v{number}")
    cut, above = opened(region, root)
    stream = StreamId("region-a", region.identity.origin, Lane.STATE)
    while cut.outgoing or above.outgoing:
        if root.state.received(stream) > 0:
            break
        for one, other in ((cut, above), (above, cut)):
            if one.outgoing:
                other.take(sync_pb2.Frame.FromString(one.outgoing.popleft()))
    reached = root.state.received(stream)
    assert 0 < reached < 30

    below, above = connected(region, root)

    first = min(
        run.first_sequence
        for run in below.runs_sent()
        if run.seal.sequence > reached and len(run.events[0]) > 50_000
    )
    assert first == reached + 1
    assert root.state.received(stream) == 30
    assert set(above.receipts) == {Receipt.TAKEN}


def test_relay_passes_a_grandchilds_events_on_untouched(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    connected(region, root)
    zone.write_policy("edge-a1", "v1")
    connected(zone, region)
    connected(region, root)
    [sent] = [r for c in zone.commits for r in c.runs if r.stream.controller == zone.name]
    [held] = [r for c in root.commits for r in c.runs if r.stream.controller == zone.name]
    assert held == sent


# What flows where.


def test_up_goes_the_subtree_and_down_the_path_without_audit(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    other = controller_below(root, "region-b-control", "region-b")
    other.write_policy("region-b", "not for region-a")
    root.receive_from(other)
    root.write_policy(ROOT, "for all")
    audit(root, ROOT)
    audit(root, "region-a")
    audit(region, "region-a")

    connected(region, root)

    assert versions(region, ROOT) == {"for all"}
    assert versions(region, "region-b") == set()
    assert {s.lane for s in region.state.streams if s.origin.controller == root.name} == {
        Lane.CONTROL
    }
    audits = {(s.domain, s.origin.controller) for s in root.state.streams if s.lane is Lane.AUDIT}
    assert audits == {(ROOT, root.name), ("region-a", root.name), ("region-a", region.name)}


def test_child_is_sent_other_domains_it_subscribes_to(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    other = controller_below(root, "region-b-control", "region-b")
    other.write_policy("region-b", "wanted")
    root.receive_from(other)
    connected(region, root, subscriptions=("region-b",))
    assert versions(region, "region-b") == {"wanted"}


def test_domain_declared_in_mid_session_flows_from_its_first_event(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    below.wake()
    zone.write_policy("edge-a1", "v1")
    region.receive_from(zone)
    below.wake()
    exchange(below, above)
    assert versions(root, "edge-a1") == {"v1"}
    assert Receipt.GAP not in above.receipts
    assert above.closed is None


def test_child_that_brings_events_of_a_foreign_domain_is_sent_away(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    controller_below(root, "region-b-control", "region-b")
    _, above = connected(region, root)
    region.write_policy("region-b", "intruding")
    intern = sync_pb2.StreamIntern(index=0, stream=region.commits[-1].runs[0].stream)
    runs = sync_pb2.Runs(interns=[intern], runs=[sync_pb2.InternedRun(stream_index=0)])

    above.take(sync_pb2.Frame(runs=runs))

    assert above.closed is not None
    assert above.closed.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
    assert "region-b" in above.closed.message


# Credits and acknowledgements.


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
    below.session._credit = 1 << 40  # It does not keep to what it was given.
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


# Level, heartbeats, silence.


def test_level_is_lost_with_a_commit_and_found_again_with_its_acknowledgement(
    root: MemoryController,
) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    levels = [below.session.is_level]
    region.write_policy("region-a", "v1")
    levels.append(below.session.is_level)
    below.wake()
    exchange(below, above)
    levels.append(below.session.is_level)
    assert levels == [True, False, True]
    assert above.session.peer_level


def test_peer_that_sends_runs_is_not_level_until_it_says_so_again(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    assert above.session.peer_level
    above.holds_ingests = True
    region.write_policy("region-a", "v1")
    below.wake()
    exchange(below, above)
    assert not above.session.peer_level


def test_session_that_is_not_kept_open_ends_once_both_sides_are_level(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    below, above = connected(region, root, keep_open=False)
    assert versions(root, "region-a") == {"v1"}
    for side in (below, above):
        assert side.closed is not None
        assert side.closed.reason == sync_pb2.GOODBYE_REASON_LEVEL
        assert side.session.phase is Phase.CLOSED
    assert below.session.last_level_ms == region.now_ms


def test_heartbeat_follows_a_silence_and_tells_the_skew_of_clocks(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, above = connected(region, root)
    below.sent.clear()
    region.now_ms += HEARTBEAT_MS - 1
    below.tick()
    assert below.sent == []
    region.now_ms += 1
    below.tick()
    assert below.kinds_sent() == ["heartbeat"]
    exchange(below, above)
    assert above.session.skew_ms == HEARTBEAT_MS


def test_heartbeats_are_as_frequent_as_the_strategy_says(root: MemoryController) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, _ = connected(region, root, heartbeat_ms=100)
    below.sent.clear()
    for _ in range(5):
        region.now_ms += 100
        below.take(sync_pb2.Frame(heartbeat=sync_pb2.Heartbeat()))
        below.tick()
    assert below.kinds_sent() == ["heartbeat"] * 5


@pytest.mark.parametrize("stage", ["greeting", "syncing"])
def test_silent_peer_is_given_up(root: MemoryController, stage: str) -> None:
    region = controller_below(root, "region-a-control", "region-a")
    below, _ = opened(region, root) if stage == "greeting" else connected(region, root)
    region.now_ms += 3 * HEARTBEAT_MS
    below.tick()
    assert below.closed is not None
    assert "silent" in below.closed.message
    assert below.session.phase is Phase.CLOSED


# Refusals and the end.


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
