from __future__ import annotations

import pytest

from federation.causality import EMPTY
from federation.clock import MAX_AHEAD_MS, stamp_of
from federation.errors import InvalidWrite
from federation.identifiers import Dot, Key, Lane, StreamId
from federation.proposal import (
    FULL_BYTES,
    MAX_EVENT_BYTES,
    Proposal,
)
from federation.receipt import Receipt
from federation.sealing import MAX_OWN_RUN_BYTES
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller

POLICY = Key("region-a", "policies/p1", "policy")


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    return controller_below(root, "region-a-control", "region-a")


def proposal_of(controller: MemoryController) -> Proposal:
    return Proposal(
        controller.state,
        controller.identity,
        controller.clock,
        controller.signer,
        controller.now_ms,
    )


def put(proposal: Proposal, key: Key, body: object, request_id: str = "") -> Dot:
    return proposal.write(*key, body, principal="user:a", request_id=request_id).dot


def policy(version: str = "v1") -> policy_pb2.PolicySpec:
    return policy_pb2.PolicySpec(version=version)


def last_run(controller: MemoryController) -> event_pb2.Run:
    return controller.commits[-1].runs[-1]


# Local writes.


def test_write_has_seen_all_that_stands_and_the_drafts_before_it(region: MemoryController) -> None:
    committed = region.write_policy("region-a", "v1")
    proposal = proposal_of(region)
    first = proposal.write(*POLICY, policy("v2"), principal="user:a")
    second = proposal.write(*POLICY, policy("v3"), principal="user:a")
    assert first.context == (committed.dot,)
    assert second.context == (first.dot,)
    assert proposal.winner(POLICY) is second
    assert region.state.winner(POLICY) is committed


def test_streams_of_one_commit_are_numbered_each_by_itself(region: MemoryController) -> None:
    proposal = proposal_of(region)
    node = Key("region-a", "nodes/n1", "node_spec")
    dots = [
        put(proposal, POLICY, policy()),
        put(proposal, node, node_pb2.NodeSpec()),
        put(proposal, POLICY, policy()),
    ]
    assert [dot.sequence for dot in dots] == [1, 1, 2]


def test_event_carries_term_principal_request_and_report(region: MemoryController) -> None:
    proposal = proposal_of(region)
    write = proposal.write(
        "region-a",
        "nodes/n1",
        "actual_state",
        node_pb2.ActualState(),
        principal="node:n1",
        request_id="r1",
        optimistic=True,
        report=("agent-1", 7),
    )
    event = write.event()
    assert (list(event.term), event.principal, event.request_id) == ([1, 1], "node:n1", "r1")
    assert (event.report_source, event.report_sequence, event.optimistic) == ("agent-1", 7, True)


def test_write_over_siblings_lists_what_it_resolves(
    root: MemoryController, region: MemoryController
) -> None:
    one = root.write_policy("region-a", "v1")
    other = region.write_policy("region-a", "v2")
    region.receive_from(root)
    write = region.write_policy("region-a", "v3")
    assert set(write.resolves) == {one.dot, other.dot}
    assert region.state.siblings(POLICY) == (write,)


def test_moved_event_keeps_its_stamp_and_stands_beside_what_its_context_does_not_name(
    region: MemoryController,
) -> None:
    first = region.write_policy("region-a", "v1", stamp=5, context=EMPTY)
    second = region.write_policy("region-a", "v2", stamp=6, context=EMPTY)
    assert (first.stamp, second.stamp) == (5, 6)
    assert set(region.state.siblings(POLICY)) == {first, second}
    assert second.resolves == ()


def test_overlay_shows_siblings_that_moved_events_make(region: MemoryController) -> None:
    proposal = proposal_of(region)
    for version in ("v1", "v2"):
        proposal.write(*POLICY, policy(version), principal="user:a", context=EMPTY)
    assert len(proposal.siblings(POLICY)) == 2


def test_event_that_is_too_large_is_refused_and_leaves_nothing(region: MemoryController) -> None:
    proposal = proposal_of(region)
    with pytest.raises(InvalidWrite, match="at most"):
        put(proposal, POLICY, policy("x" * MAX_EVENT_BYTES))
    assert proposal.empty
    assert put(proposal, POLICY, policy()).sequence == 1


def test_request_is_found_again_in_the_same_commit_and_after_it(region: MemoryController) -> None:
    proposal = proposal_of(region)
    put(proposal, POLICY, policy(), "r1")
    assert proposal.subject_of_request("user:a", "r1") == "policies/p1"
    assert proposal.subject_of_request("user:b", "r1") is None
    region.submit(lambda p: put(p, POLICY, policy(), "r1"))
    assert proposal_of(region).subject_of_request("user:a", "r1") == "policies/p1"
    assert proposal_of(region).subject_of_request("user:a", "") is None


# Reverting.


def test_reverting_drops_every_draft_since_the_mark_in_every_stream(
    region: MemoryController,
) -> None:
    node = Key("region-a", "nodes/n1", "node_spec")
    proposal = proposal_of(region)
    kept = proposal.write(*POLICY, policy("kept"), principal="user:a", request_id="r0")
    mark = proposal.mark()
    for request in ("r1", "r1", "r2"):
        put(proposal, POLICY, policy("dropped"), request)
        put(proposal, node, node_pb2.NodeSpec(), request)
    proposal.revert(mark)

    assert proposal.mark() == mark
    assert [w for _, w in proposal.drafts()] == [kept]
    assert proposal.winner(POLICY) is kept
    assert proposal.winner(node) is None
    assert proposal.subject_of_request("user:a", "r1") is None
    assert proposal.subject_of_request("user:a", "r0") == "policies/p1"
    assert put(proposal, POLICY, policy()).sequence == 2
    assert put(proposal, node, node_pb2.NodeSpec()).sequence == 1


def test_reverting_a_later_draft_of_a_request_does_not_forget_the_request(
    region: MemoryController,
) -> None:
    proposal = proposal_of(region)
    put(proposal, POLICY, policy(), "r1")
    mark = proposal.mark()
    put(proposal, Key("region-a", "policies/p2", "policy"), policy(), "r1")
    proposal.revert(mark)
    assert proposal.subject_of_request("user:a", "r1") == "policies/p1"


def test_what_is_left_after_reverting_makes_a_sound_commit(
    root: MemoryController, region: MemoryController
) -> None:
    def decide(proposal: Proposal) -> None:
        put(proposal, POLICY, policy("v1"))
        mark = proposal.mark()
        put(proposal, POLICY, policy("dropped"))
        proposal.revert(mark)
        put(proposal, POLICY, policy("v2"))

    region.submit(decide)
    root.receive_from(region)
    winner = root.state.winner(POLICY)
    assert winner is not None
    assert (winner.body().version, winner.sequence) == ("v2", 2)


def test_reverting_drops_received_and_refused_runs_too(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    good = last_run(region)
    bad = event_pb2.Run()
    bad.CopyFrom(good)
    bad.seal.chain_hash = bytes(32)
    proposal = proposal_of(root)
    mark = proposal.mark()
    assert proposal.receive("x", bad) is Receipt.QUARANTINED
    assert proposal.receive("x", good) is Receipt.TAKEN

    proposal.revert(mark)

    assert proposal.empty
    assert proposal.mark() == mark
    assert proposal.receive("x", good) is Receipt.TAKEN


def test_reverting_a_grant_lets_the_proposal_take_more(root: MemoryController) -> None:
    proposal = proposal_of(root)
    mark = proposal.mark()
    record = authority_pb2.AuthorityRecord(domain="region-b", parent=ROOT)
    put(proposal, Key("region-b", "domains/region-b", "authority"), record)
    assert proposal.full
    proposal.revert(mark)
    assert not proposal.full


# Bounds.


def test_proposal_is_full_before_a_commit_would_be_too_large(region: MemoryController) -> None:
    proposal = proposal_of(region)
    while not proposal.full:
        put(proposal, POLICY, policy("x" * 60_000))
    assert FULL_BYTES <= proposal.size < FULL_BYTES + 61_000
    assert len(proposal.build(bytes(16), "r1", 1).data) <= proposal.size


def test_size_is_estimated_from_above_for_small_events_of_many_streams(
    region: MemoryController,
) -> None:
    proposal = proposal_of(region)
    for number in range(50):
        put(proposal, Key(f"domain-{number}", "policies/p1", "policy"), policy(""))
    built = proposal.build(bytes(16), "replica-1", 2**60)
    assert len(built.data) <= proposal.size + 100


def test_own_runs_are_cut_so_that_peers_take_them(
    root: MemoryController, region: MemoryController
) -> None:
    region.submit(lambda p: [put(p, POLICY, policy("x" * 90_000)) for _ in range(7)])
    runs = list(region.commits[-1].runs)
    assert [len(run.events) for run in runs] == [2, 2, 2, 1]
    assert all(sum(map(len, run.events)) <= MAX_OWN_RUN_BYTES for run in runs)
    root.receive_from(region)
    assert root.state.received(StreamId("region-a", region.identity.origin, Lane.CONTROL)) == 7
    assert dict(region.replayed().table.items()) == dict(region.state.table.items())


# Clocks.


def test_honest_stamps_are_followed(root: MemoryController, region: MemoryController) -> None:
    region.now_ms += MAX_AHEAD_MS
    seen = region.write_policy("region-a", "v1")
    root.receive_from(region)
    assert root.clock.last >= seen.stamp
    assert not [key for key, _ in root.state.table.items() if key.aspect == "admission"]


def test_stamps_from_the_future_are_admitted_by_a_controller_above(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "in time")
    region.now_ms += MAX_AHEAD_MS + 60_000
    region.write_policy("region-a", "ahead")

    root.receive_from(region)

    [key] = [key for key, _ in root.state.table.items() if key.aspect == "admission"]
    winner = root.state.winner(key)
    assert winner is not None
    record = winner.body()
    assert key.domain == "region-a"
    assert (record.controller, record.first_sequence, record.last_sequence) == (region.name, 2, 2)
    assert record.received_stamp <= stamp_of(root.now_ms + MAX_AHEAD_MS)
    assert root.clock.last <= stamp_of(root.now_ms + MAX_AHEAD_MS)


def test_stamps_from_the_future_are_not_admitted_from_below(
    root: MemoryController, region: MemoryController
) -> None:
    root.now_ms += 60_000
    root.write_policy(ROOT, "ahead")
    region.receive_from(root)
    assert not [key for key, _ in region.state.table.items() if key.aspect == "admission"]
