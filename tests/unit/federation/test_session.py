"""A session from its greeting to level, and which domains' events flow over it."""

from __future__ import annotations

from federation.identifiers import Lane, StreamId
from federation.receipt import Receipt
from federation.session_phases import ALLOWED, TRANSITIONS, Phase, Step
from souverix.audit.v1 import audit_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below
from tests.unit.federation.session_wire import connected, exchange, opened, versions, write_node


def audit(controller: MemoryController, domain: str) -> None:
    controller.submit(
        lambda p: p.write(
            domain, f"audit/{controller.name}", "audit", audit_pb2.AuditRecord(), principal="user:a"
        )
    )


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
    assert all(edge.because for edge in TRANSITIONS.values())
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
