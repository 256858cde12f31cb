"""Links between controllers, their clocks and debts, streams that wait or are refused, backlogs."""

from __future__ import annotations

from typing import Any

from controller.attention.conditions import Judgement, Kind, Severity
from controller.attention.links import (
    BacklogSignal,
    PeerSignals,
    judge_backlog,
    judge_hop,
    judge_peer,
    judge_streams,
)
from controller.attention.rules import Limits
from controller.signing import Ed25519Signer
from controller.twin.facts import timestamp
from federation.identifiers import Key
from federation.streams import RefusedRun
from souverix.federation.v1 import authority_pb2, peer_link_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller

LIMITS = Limits()
ZONE, REGION = "edge-a1", "region-a"


def tree() -> tuple[MemoryController, MemoryController, MemoryController]:
    root = root_controller()
    region = controller_below(root, f"{REGION}-control", REGION)
    zone = controller_below(region, f"{ZONE}-control", ZONE)
    root.receive_from(region)
    return root, region, zone


def record_link(near: MemoryController, far: str, domain: str, *, down: bool) -> None:
    state = "DOWN" if down else "UP"
    body = peer_link_pb2.PeerLink(
        state=f"PEER_LINK_STATE_{state}",
        reason="connection_lost" if down else "connection_detected",
        last_heard_time=timestamp(near.now_ms - 5000),
        time=timestamp(near.now_ms),
    )
    key = Key(domain, f"controllers/{far}", "peer_link")
    near.submit(lambda p: p.write(*key, body, principal=f"controller:{near.name}"))


def hop(seen_by: MemoryController, domain: str, now_ms: int | None = None) -> Judgement:
    now_ms = seen_by.now_ms if now_ms is None else now_ms
    return judge_hop(seen_by.state, seen_by.identity.domain, domain, now_ms)


def test_a_link_that_is_down_is_told_of_at_every_distance_under_one_name() -> None:
    root, region, zone = tree()
    assert hop(region, ZONE) == Judgement()
    record_link(region, zone.name, ZONE, down=True)
    root.receive_from(region)
    for seen_by in (region, root):
        (found,) = hop(seen_by, ZONE).conditions
        assert (found.kind, found.domain, found.subject) == (
            Kind.CONTROLLER_CUT_OFF,
            REGION,
            f"controllers/{zone.name}",
        )
        assert found.since_ms == region.now_ms - 5000
        assert "connection_lost" in found.words
    assert hop(root, REGION) == Judgement()
    record_link(region, zone.name, ZONE, down=False)
    assert hop(region, ZONE) == Judgement()


def test_below_the_cut_it_is_the_controller_above_that_is_missed() -> None:
    _, region, zone = tree()
    record_link(zone, region.name, ZONE, down=True)
    (found,) = hop(zone, ZONE).conditions
    assert (found.domain, found.subject) == (ZONE, f"controllers/{region.name}")
    assert hop(zone, REGION) == Judgement()


def test_a_controller_that_syncs_at_intervals_is_missed_after_two_and_a_manual_one_never() -> None:
    _, region, zone = tree()
    key = Key(ZONE, f"domains/{ZONE}", "authority")
    winner = region.state.winner(key)
    assert winner is not None
    record: Any = winner.body()
    record.sync.mode = authority_pb2.SYNC_MODE_PERIODIC
    record.sync.frequency.FromSeconds(60)
    region.submit(lambda p: p.write(*key, record, principal="user:x"))
    record_link(region, zone.name, ZONE, down=True)
    due_ms = region.now_ms - 5000 + 120_000
    assert hop(region, ZONE) == Judgement((), due_ms)
    assert hop(region, ZONE, due_ms).conditions
    record.sync.mode = authority_pb2.SYNC_MODE_MANUAL
    region.submit(lambda p: p.write(*key, record, principal="user:x"))
    assert hop(region, ZONE, due_ms * 2) == Judgement()


def test_a_linked_controller_that_is_level_and_on_time_is_no_news() -> None:
    assert judge_peer(PeerSignals("c", 1000, 10, 400), ROOT, LIMITS, 0) == []


def test_debt_and_clock_of_a_linked_controller() -> None:
    peer = PeerSignals("c", 60_000, 8 * LIMITS.controller_backlog + 5, -700)
    debt, clock = judge_peer(peer, ROOT, LIMITS, 100_000)
    assert (debt.kind, debt.since_ms, debt.extent) == (Kind.CONTROLLER_SYNC_DEBT, 40_000, 8.0)
    assert clock.kind is Kind.CONTROLLER_CLOCK_OFF
    assert "behind" in clock.words


def test_a_stream_that_waits_for_its_key_is_told_of_after_a_while() -> None:
    root = root_controller()
    stranger = MemoryController("edge-a1-control", ZONE, root.root_signer)
    elder = controller_below(root, "region-a-control", REGION)
    elder.declare(ZONE, REGION, stranger)
    stranger.receive_from(root)
    stranger.receive_from(elder)
    stranger.write_policy(ZONE, "v1")
    lonely = MemoryController("region-b-control", "region-b", Ed25519Signer.generate())
    for commit in stranger.commits:
        for run in commit.runs:
            if run.stream.controller == stranger.name:
                lonely.receive(stranger.name, run)
    assert list(judge_streams(lonely.state, "region-b", LIMITS, lonely.now_ms)) == []
    late_ms = lonely.now_ms + int(LIMITS.stream_waits_after_s * 1000)
    found = list(judge_streams(lonely.state, "region-b", LIMITS, late_ms))
    assert {each.kind for each in found} == {Kind.STREAM_WAITING}
    assert {each.domain for each in found} == {"region-b"}
    assert "waits" in found[0].words


def test_refused_runs_are_told_of() -> None:
    root, _, _ = tree()
    stream, held = next(iter(root.state.streams.items()))
    root.state.evidence[stream] = {
        bytes([number]): RefusedRun("SEAL_INVALID", "a peer", 0, 0, 1, 1, 10, discarded)
        for number, discarded in enumerate((False, False, False, True))
    }
    (found,) = judge_streams(root.state, ROOT, LIMITS, root.now_ms)
    assert (found.kind, found.severity, found.extent) == (
        Kind.STREAM_QUARANTINED,
        Severity.HIGH,
        2.0,
    )
    held.quarantine_reason = "CHAIN_MISMATCH"
    (found,) = judge_streams(root.state, ROOT, LIMITS, root.now_ms)
    assert found.severity is Severity.CRITICAL
    assert "CHAIN_MISMATCH" in found.words
    assert stream.origin.controller in found.words


def test_a_backlog_belongs_to_the_nodes_domain() -> None:
    backlog = judge_backlog(BacklogSignal("n1", ZONE, 4000, 7), LIMITS)
    assert (backlog.kind, backlog.domain, backlog.since_ms, backlog.extent) == (
        Kind.NODE_SYNC_DEBT,
        ZONE,
        7,
        4.0,
    )
