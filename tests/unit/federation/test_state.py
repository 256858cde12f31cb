from __future__ import annotations

from functools import partial

import pytest

from federation.clock import stamp_of
from federation.errors import CorruptLog
from federation.identifiers import Dot, Key, Lane, Origin, StreamId
from federation.proposal import Proposal
from federation.receipt import Receipt
from federation.state import MAX_EVIDENCE_A_STREAM, State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import (
    ROOT,
    START_MS,
    MemoryController,
    controller_below,
    root_controller,
)

POLICY = Key("region-a", "policies/p1", "policy")


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    return controller_below(root, "region-a-control", "region-a")


def runs_of(controller: MemoryController) -> list[event_pb2.Run]:
    return [run for commit in controller.commits for run in commit.runs]


def receive(proposal: Proposal, run: event_pb2.Run) -> Receipt:
    return proposal.receive("a peer", run)


def facts(state: State) -> object:
    return (
        dict(state.table.items()),
        state.streams.keys(),
        {s: (h.received, h.chain_hash, h.applied) for s, h in state.streams.items()},
        state.authority.records,
        state.conflicts.due.keys(),
        state.conflicts.recorded,
        state.conflicts.open_keys,
        list(state.requests.newest(len(state.requests))),
        list(state.audits),
        state.next_offset,
        state.clock,
        list(state.control_offsets),
        state.table.subjects,
        state.domains_of_subject,
    )


# The log.


def test_replay_of_the_log_makes_the_same_state(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1", request_id="r1")
    root.write_policy("region-a", "v2", optimistic=True)
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.now_ms += 3_600_000
    zone.write_policy("edge-a1", "v3")
    region.receive_from(zone)
    root.receive_from(region)
    region.receive_from(root)
    region.write_policy("region-a", "v4")

    for controller in (root, region, zone):
        assert facts(controller.replayed()) == facts(controller.state)


def test_commit_out_of_order_is_a_corrupt_log(root: MemoryController) -> None:
    with pytest.raises(CorruptLog, match="commit 0 follows 0"):
        root.state.apply(0, root.commits[0])


def test_commit_with_a_gap_in_a_stream_is_a_corrupt_log(root: MemoryController) -> None:
    root.write_policy(ROOT, "v1")
    commit = event_pb2.Commit()
    commit.CopyFrom(root.commits[-1])
    commit.offset += 1
    commit.runs[0].first_sequence += 5
    with pytest.raises(CorruptLog, match="follows"):
        root.state.apply(commit.offset, commit)


def test_peers_stamp_does_not_move_the_clock_that_the_next_writer_goes_on_from(
    root: MemoryController, region: MemoryController
) -> None:
    region.now_ms += 365 * 24 * 3_600_000
    region.write_policy("region-a", "v1")

    root.receive_from(region)

    assert root.state.winner(POLICY) is not None
    assert root.state.clock < stamp_of(START_MS + 1_000)
    assert root.replayed().clock == root.state.clock


# Taking effect.


def test_stream_waits_for_the_facts_it_rests_on_and_then_takes_effect_by_itself(
    root: MemoryController, region: MemoryController
) -> None:
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.write_policy("edge-a1", "v1")
    stranger = MemoryController("observer", ROOT, root.root_signer)
    key = Key("edge-a1", "policies/p1", "policy")

    for run in runs_of(zone)[-1:]:
        stranger.receive("edge-a1-control", run)
    stream = StreamId("edge-a1", zone.identity.origin, Lane.CONTROL)
    assert stranger.state.winner(key) is None
    assert stranger.state.received(stream) == 1
    assert stranger.state.streams[stream].waiting_reason == "KEY_UNKNOWN"

    stranger.receive_from(region)
    stranger.receive_from(root)

    held = stranger.state.streams[stream]
    assert (held.applied, len(held.waiting), held.waiting_reason) == (1, 0, "")
    winner = stranger.state.winner(key)
    assert winner is not None
    assert winner.body().version == "v1"


def test_facts_in_any_order_make_the_same_table(
    root: MemoryController, region: MemoryController
) -> None:
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.write_policy("edge-a1", "v1")
    zone.write_policy("edge-a1", "v2")
    sources = (root, region, zone)
    tables = []
    for turn in range(len(sources)):
        stranger = MemoryController("observer", ROOT, root.root_signer)
        for source in (*sources[turn:], *sources[:turn]):
            stranger.receive_from(source)
        assert not any(held.waiting for held in stranger.state.streams.values())
        assert facts(stranger.replayed()) == facts(stranger.state)
        tables.append(dict(stranger.state.table.items()))
    assert tables[0] == tables[1] == tables[2]


def test_run_of_several_grants_that_had_to_wait_takes_effect_once(
    root: MemoryController, region: MemoryController
) -> None:
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    stranger = MemoryController("observer", ROOT, root.root_signer)
    declaration = StreamId("edge-a1", region.identity.origin, Lane.CONTROL)
    in_domain = [r for r in runs_of(region) if r.stream.domain == "edge-a1"]

    for run in in_domain:
        stranger.receive("region-a-control", run)
    assert stranger.state.streams[declaration].waiting_reason == "KEY_UNKNOWN"
    stranger.receive_from(root)

    held = stranger.state.streams[declaration]
    assert (held.applied, held.received, len(held.waiting)) == (4, 4, 0)
    assert stranger.state.authority.path_of("edge-a1") == (ROOT, "region-a", "edge-a1")
    assert stranger.state.keys.knows(zone.name, zone.signer.key_id)


def test_run_stops_at_the_event_that_must_wait_and_goes_on_from_there(
    root: MemoryController, region: MemoryController
) -> None:
    """One run: an event under the old term, then one under a term its receiver does not know yet."""
    observer = MemoryController("observer", ROOT, root.root_signer)
    observer.receive_from(root)
    transfer = root.state.authority.records["region-a"]
    renewed = authority_pb2.AuthorityRecord()
    renewed.CopyFrom(transfer)
    renewed.term = 2
    region.write_policy("region-a", "v1")
    root.submit(
        lambda p: p.write("region-a", "domains/region-a", "authority", renewed, principal="x")
    )
    region.receive_from(root)
    region.write_policy("region-a", "v2")
    first, second = [r for r in runs_of(region) if r.stream.controller == region.name]
    joined = event_pb2.Run(
        stream=first.stream,
        first_sequence=1,
        events=[*first.events, *second.events],
        seal=second.seal,
    )

    observer.receive(region.name, joined)

    held = observer.state.streams[StreamId("region-a", region.identity.origin, Lane.CONTROL)]
    assert (held.received, held.applied, held.waiting_reason) == (2, 1, "TERM_UNKNOWN")
    winner = observer.state.winner(POLICY)
    assert winner is not None
    assert winner.body().version == "v1"

    observer.receive_from(root)

    assert (held.applied, len(held.waiting)) == (2, 0)
    winner = observer.state.winner(POLICY)
    assert winner is not None
    assert winner.body().version == "v2"
    assert facts(observer.replayed()) == facts(observer.state)


def test_quarantine_of_a_stream_leaves_the_others_alone(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy(ROOT, "forbidden")
    region.write_policy("region-a", "v1")

    root.receive_from(region)

    bad = root.state.streams[StreamId(ROOT, region.identity.origin, Lane.CONTROL)]
    assert (bad.quarantine_reason, bad.received, bad.applied) == ("OUT_OF_REACH", 1, 0)
    assert len(bad.waiting) == 1
    assert root.state.winner(Key(ROOT, "policies/p1", "policy")) is None
    assert root.state.winner(POLICY) is not None


def test_later_runs_of_a_quarantined_stream_are_kept_without_effect(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy(ROOT, "forbidden")
    region.write_policy(ROOT, "again", subject="policies/p2")

    root.receive_from(region)

    bad = root.state.streams[StreamId(ROOT, region.identity.origin, Lane.CONTROL)]
    assert (bad.received, bad.applied, len(bad.waiting)) == (2, 0, 2)


def test_evidence_of_refused_runs_is_bounded(
    root: MemoryController, region: MemoryController
) -> None:
    for number in range(MAX_EVIDENCE_A_STREAM + 3):
        region.write_policy("region-a", f"v{number}")
    for run in runs_of(region)[-MAX_EVIDENCE_A_STREAM - 2 :]:
        forged = event_pb2.Run()
        forged.CopyFrom(run)
        forged.first_sequence = forged.seal.sequence = 1
        for _ in range(2):
            assert root.submit(partial(receive, run=forged)) is Receipt.QUARANTINED

    kept = [q for commit in root.commits for q in commit.quarantined]
    assert len(kept) == MAX_EVIDENCE_A_STREAM
    assert len({q.run.seal.chain_hash for q in kept}) == len(kept)


# What it knows.


def test_request_is_remembered_with_what_it_wrote_first(region: MemoryController) -> None:
    def decide(proposal: Proposal) -> None:
        for aspect, body in (
            ("node_spec", node_pb2.NodeSpec(display_name="x")),
            ("desired_state", node_pb2.DesiredState()),
        ):
            proposal.write(
                "region-a", "nodes/n1", aspect, body, principal="user:a", request_id="r1"
            )

    region.submit(decide)
    outcome = region.state.requests.get(("user:a", "r1"))
    assert outcome is not None
    assert (outcome.subject, outcome.aspect, outcome.sequence) == ("nodes/n1", "node_spec", 1)
    assert outcome.offset == region.commits[-1].offset
    stream = StreamId("region-a", region.identity.origin, Lane.STATE)
    assert region.state.positions_at(outcome.stream, outcome.offset) == ((stream, 2),)


def test_subjects_are_listed_by_domain_and_kind(region: MemoryController) -> None:
    region.write_policy("region-a", "v1", subject="policies/p2")
    region.write_policy("region-a", "v1")
    assert list(region.state.subjects_of("region-a", "policies")) == ["policies/p2", "policies/p1"]
    assert list(region.state.subjects_of("region-b", "policies")) == []


def test_commits_with_control_runs_are_found_by_offset(region: MemoryController) -> None:
    before = list(region.state.control_offsets)
    region.submit(
        lambda p: p.write(
            "region-a", "nodes/n1", "node_spec", node_pb2.NodeSpec(), principal="user:a"
        )
    )
    region.write_policy("region-a", "v1")
    assert list(region.state.control_offsets) == [*before, region.commits[-1].offset]


def test_admission_decides_anew_who_wins(root: MemoryController, region: MemoryController) -> None:
    """Two optimistic writers; the clock of one is a day ahead, and its parent says so."""
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    key = Key("edge-a1", "policies/p1", "policy")
    zone.now_ms += 24 * 3_600_000
    zone.write_policy("edge-a1", "from the future")
    region.now_ms += 60_000
    region.write_policy("edge-a1", "in time")
    by_stamp = sorted([region.state.winner(key), zone.state.winner(key)], key=lambda w: w.stamp)  # type: ignore[union-attr]
    assert by_stamp[1] is zone.state.winner(key)
    region.now_ms += 60_000

    region.receive_from(zone)
    zone.receive_from(region)

    effective = [region.state.rank(key, w)[1] for w in region.state.siblings(key)]
    assert max(effective) < stamp_of(START_MS + 200_000)
    assert {w.dot for w in region.state.siblings(key)} == {w.dot for w in zone.state.siblings(key)}
    for write in region.state.siblings(key):
        assert region.state.rank(key, write) == zone.state.rank(key, write)


def test_late_write_of_a_superseded_master_is_told_and_an_early_one_is_not(
    root: MemoryController, region: MemoryController
) -> None:
    def told(controller: MemoryController) -> list[str]:
        assert controller.last_applied is not None
        return [write.body().version for _, write in controller.last_applied.superseded]

    region.write_policy("region-a", "in time")
    early = runs_of(region)[-1]
    root.now_ms += 1000
    forced = authority_pb2.AuthorityRecord()
    forced.CopyFrom(root.state.authority.records["region-a"])
    forced.master_of_record, forced.term = root.name, 2
    del forced.since[:]
    forced.since.extend([1, 2])
    root.submit(
        lambda p: p.write("region-a", "domains/region-a", "authority", forced, principal="x")
    )
    region.now_ms += 2000
    region.write_policy("region-a", "late")
    late = runs_of(region)[-1]

    root.receive(region.name, early)
    assert told(root) == []
    root.receive(region.name, late)
    assert told(root) == ["late"]
    winner = root.state.winner(POLICY)
    assert winner is not None
    assert winner.body().version == "late"

    root.write_policy("region-a", "of the new master", context=())
    winner = root.state.winner(POLICY)
    assert winner is not None
    assert winner.body().version == "of the new master"


def test_own_earlier_incarnation_is_the_highest_it_wrote_under(region: MemoryController) -> None:
    assert region.state.own_incarnation() == 0
    region.write_policy("region-a", "v1")
    assert region.state.own_incarnation() == 1


def test_dots_of_siblings_are_those_of_their_streams(region: MemoryController) -> None:
    write = region.write_policy("region-a", "v1")
    assert write.dot == Dot(Origin("region-a-control", 1), 1)
    assert region.state.siblings(POLICY) == (write,)
    assert isinstance(write.body(), policy_pb2.PolicySpec)
