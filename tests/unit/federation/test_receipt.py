"""What becomes of a peer's run at receipt, and what the log keeps of it."""

from __future__ import annotations

import pytest

from federation.chain import chain_start, extend, seal
from federation.errors import InvalidWrite
from federation.identifiers import Key, Lane, StreamId
from federation.proposal import Proposal
from federation.receipt import MAX_RUN_BYTES, Receipt
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import node_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller

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


def last_run(controller: MemoryController) -> event_pb2.Run:
    return controller.commits[-1].runs[-1]


def sealed(
    controller: MemoryController, stream: StreamId, first: int, start: bytes, events: list[bytes]
) -> event_pb2.Run:
    """A run with whatever is in it, under a good seal of its controller."""
    return event_pb2.Run(
        stream={
            "domain": stream.domain,
            "controller": stream.origin.controller,
            "incarnation": stream.origin.incarnation,
            "lane": int(stream.lane),
        },
        first_sequence=first,
        events=events,
        seal=seal(controller.signer, stream, first + len(events) - 1, extend(start, events)),
    )


def test_run_is_taken_once(root: MemoryController, region: MemoryController) -> None:
    region.write_policy("region-a", "v1")
    proposal = proposal_of(root)
    assert proposal.receive("x", last_run(region)) is Receipt.TAKEN
    assert proposal.receive("x", last_run(region)) is Receipt.REPEATED
    root.receive_from(region)
    assert root.submit(lambda p: p.receive("x", last_run(region))) is Receipt.REPEATED


def test_runs_of_one_stream_may_share_a_commit(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    first = last_run(region)
    region.write_policy("region-a", "v2")
    second = last_run(region)
    receipts = root.submit(lambda p: [p.receive("x", first), p.receive("x", second)])
    assert receipts == [Receipt.TAKEN, Receipt.TAKEN]
    winner = root.state.winner(POLICY)
    assert winner is not None
    assert winner.body().version == "v2"


def test_part_of_a_run_that_is_held_already_is_skipped(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    first = last_run(region)
    region.write_policy("region-a", "v2")
    second = last_run(region)
    joined = event_pb2.Run(
        stream=first.stream,
        first_sequence=1,
        events=[*first.events, *second.events],
        seal=second.seal,
    )
    root.receive("x", first)
    root.receive("x", joined)
    taken = last_run(root)
    assert (taken.first_sequence, list(taken.events)) == (2, list(second.events))
    assert dict(root.replayed().table.items()) == dict(root.state.table.items())


def test_run_beyond_a_gap_is_not_taken(root: MemoryController, region: MemoryController) -> None:
    region.write_policy("region-a", "v1")
    region.write_policy("region-a", "v2")
    proposal = proposal_of(root)
    assert proposal.receive("x", last_run(region)) is Receipt.GAP
    assert proposal.empty


def refusal(controller: MemoryController, run: event_pb2.Run) -> str:
    """Why a run is kept without effect."""
    assert controller.submit(lambda p: p.receive("a peer", run)) is Receipt.QUARANTINED
    [refused] = controller.commits[-1].quarantined
    assert refused.peer == "a peer"
    assert refused.run.stream == run.stream
    return refused.reason


def test_run_that_contradicts_its_chain_is_quarantined(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    changed = event_pb2.Run()
    changed.CopyFrom(last_run(region))
    changed.events[0] += b"\x12\x01x"
    assert refusal(root, changed) == "CHAIN_MISMATCH"


def test_run_under_a_bad_seal_is_quarantined(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    forged = event_pb2.Run()
    forged.CopyFrom(last_run(region))
    forged.seal.signature = bytes(64)
    assert refusal(root, forged) == "SEAL_INVALID"


def test_run_of_something_that_is_no_event_is_quarantined(
    root: MemoryController, region: MemoryController
) -> None:
    stream = StreamId("region-a", region.identity.origin, Lane.STATE)
    run = sealed(region, stream, 1, chain_start(stream), [b"\xff\xff"])
    assert refusal(root, run) == "UNDECODABLE"


def test_own_events_that_are_not_in_the_own_log_are_kept_as_evidence(
    region: MemoryController,
) -> None:
    stream = StreamId("region-a", region.identity.origin, Lane.STATE)
    event = event_pb2.Event(subject="nodes/n1", node_spec=node_pb2.NodeSpec())
    run = sealed(region, stream, 1, chain_start(stream), [event.SerializeToString()])
    assert refusal(region, run) == "OWN_STREAM_AHEAD"
    later = stream._replace(origin=stream.origin._replace(incarnation=2))
    run = sealed(region, later, 1, chain_start(later), [event.SerializeToString()])
    assert refusal(region, run) == "OWN_STREAM_AHEAD"


def test_own_events_of_an_earlier_incarnation_are_taken_back_under_a_known_key(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    run = last_run(region)
    successor = MemoryController(region.name, "region-a", root.root_signer, incarnation=2)
    assert refusal(successor, run) == "KEY_UNKNOWN"
    successor.receive_from(root)
    assert successor.submit(lambda p: p.receive(root.name, run)) is Receipt.TAKEN
    assert successor.state.winner(POLICY) is not None
    assert dict(successor.replayed().table.items()) == dict(successor.state.table.items())


@pytest.mark.parametrize(
    "broken",
    [
        {"events": []},
        {"first_sequence": 0},
        {"first_sequence": 2},
        {"events": [b"x" * (MAX_RUN_BYTES + 1)]},
    ],
)
def test_malformed_run_is_an_error(region: MemoryController, broken: dict[str, object]) -> None:
    region.write_policy("region-a", "v1")
    run = event_pb2.Run()
    run.CopyFrom(last_run(region))
    for field, value in broken.items():
        if field == "events":
            del run.events[:]
            run.events.extend(value)  # type: ignore[arg-type]
        else:
            setattr(run, field, value)
    proposal = proposal_of(region)
    with pytest.raises(InvalidWrite):
        proposal.receive("x", run)
    assert proposal.empty
