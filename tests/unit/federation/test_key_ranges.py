"""A controller goes on under another signing key: what each key may seal, and what peers make of it."""

from __future__ import annotations

from functools import partial

import pytest

from controller.signing import Ed25519Signer
from federation.chain import chain_start, extend, seal
from federation.codec import stream_from_message
from federation.errors import KeyNotInForce, WrongState
from federation.identifiers import Key, Lane, StreamId
from federation.keys import KEY_SUPERSEDED
from federation.proposal import Proposal
from federation.receipt import Receipt
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller
from tests.federation_store import contents

POLICY = Key("region-a", "policies/p1", "policy")


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    return controller_below(root, "region-a-control", "region-a")


def version(controller: MemoryController, key: Key = POLICY) -> str:
    winner = controller.state.winner(key)
    return winner.body().version if winner is not None else ""


def own_runs(controller: MemoryController, lane: Lane = Lane.CONTROL) -> list[event_pb2.Run]:
    return [
        run
        for commit in controller.commits
        for run in commit.runs
        if run.stream.controller == controller.name and run.stream.lane == int(lane)
    ]


def forged(
    controller: MemoryController, signer: Ed25519Signer, version: str, first: int | None = None
) -> event_pb2.Run:
    """A run that follows a controller's control stream of its domain, sealed by a key of the forger's choice."""
    stream = StreamId(controller.identity.domain, controller.identity.origin, Lane.CONTROL)
    at = controller.state.received(stream) if first is None else first - 1
    follows = controller.state.chain_hash(stream) if first is None else chain_start(stream)
    event = event_pb2.Event(
        stamp=1 << 60,
        subject="policies/p1",
        principal="user:forger",
        policy=policy_pb2.PolicySpec(version=version),
    ).SerializeToString()
    return event_pb2.Run(
        stream=own_runs(controller)[0].stream,
        first_sequence=at + 1,
        events=[event],
        seal=seal(signer, stream, at + 1, extend(follows, [event])),
    )


def receipt(at: MemoryController, run: event_pb2.Run) -> Receipt:
    def receive(proposal: Proposal) -> Receipt:
        return proposal.receive("a peer", run)

    return at.submit(receive)


def test_events_under_the_new_key_count_like_those_under_the_old_one(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "v1")
    old = region.signer.key_id
    region.rotate_key()
    region.write_policy("region-a", "v2")

    root.receive_from(region)

    assert version(root) == "v2"
    assert {run.seal.key_id for run in own_runs(region)} == {old, region.signer.key_id}
    assert not any(held.waiting for held in root.state.streams.values())
    assert contents(root.replayed()) == contents(root.state)


def test_a_peer_that_was_away_for_many_rotations_verifies_them_all(
    root: MemoryController, region: MemoryController
) -> None:
    for number in range(20):
        region.write_policy("region-a", f"v{number}")
        region.rotate_key()
    region.write_policy("region-a", "last")

    root.receive_from(region)

    assert version(root) == "last"


def test_the_roots_key_changes_as_any_other(
    root: MemoryController, region: MemoryController
) -> None:
    root.rotate_key()
    root.write_policy(ROOT, "v1")
    region.receive_from(root)
    assert version(region, Key(ROOT, "policies/p1", "policy")) == "v1"


def test_events_under_a_key_that_is_not_known_yet_wait_for_its_succession(
    root: MemoryController, region: MemoryController
) -> None:
    region.rotate_key()
    body = node_pb2.ActualState(reported_version="v1")
    region.submit(lambda p: p.write("region-a", "nodes/n1", "actual_state", body, principal="x"))
    [state_run] = own_runs(region, Lane.STATE)
    stream = stream_from_message(state_run.stream)

    root.receive(region.name, state_run)
    held = root.state.streams[stream]
    assert (held.applied, held.waiting_reason) == (0, "KEY_UNKNOWN")

    root.receive_from(region)
    assert (held.applied, len(held.waiting)) == (1, 0)


def test_the_old_key_seals_nothing_above_its_end(
    root: MemoryController, region: MemoryController
) -> None:
    old = region.signer
    region.write_policy("region-a", "v1")
    region.rotate_key()
    root.receive_from(region)

    assert receipt(root, forged(region, old, "forged")) is Receipt.QUARANTINED

    assert version(root) == "v1"
    [refused] = root.state.evidence.values()
    assert [run.reason for run in refused.values()] == [KEY_SUPERSEDED]
    region.write_policy("region-a", "v2")
    root.receive_from(region)
    assert version(root) == "v2"


def test_what_an_old_key_sealed_above_its_end_is_undone_when_the_end_becomes_known(
    root: MemoryController, region: MemoryController
) -> None:
    old = region.signer
    region.write_policy("region-a", "v1")
    root.receive_from(region)
    stream = StreamId("region-a", region.identity.origin, Lane.STATE)
    event = event_pb2.Event(
        stamp=1, subject="nodes/n1", desired_state=node_pb2.DesiredState(target_version="evil")
    ).SerializeToString()
    forgery = event_pb2.Run(
        stream=event_pb2.StreamId(
            domain="region-a", controller=region.name, incarnation=1, lane=event_pb2.LANE_STATE
        ),
        first_sequence=1,
        events=[event],
        seal=seal(old, stream, 1, extend(chain_start(stream), [event])),
    )
    root.receive("a peer", forgery)
    key = Key("region-a", "nodes/n1", "desired_state")
    assert root.state.winner(key) is not None

    region.rotate_key()
    root.receive_from(region)

    assert root.state.winner(key) is None
    assert root.state.streams[stream].quarantine_reason == KEY_SUPERSEDED


def test_a_run_lies_within_one_keys_range(root: MemoryController, region: MemoryController) -> None:
    region.write_policy("region-a", "v1")
    region.rotate_key()
    region.write_policy("region-a", "v2")
    runs = own_runs(region)
    joined = event_pb2.Run(
        stream=runs[0].stream,
        first_sequence=1,
        events=[event for run in runs for event in run.events],
        seal=runs[-1].seal,
    )
    root.receive(region.name, joined)
    held = root.state.streams[stream_from_message(joined.stream)]
    assert (held.applied, held.waiting_reason) == (0, "KEY_UNKNOWN")


@pytest.mark.parametrize(
    "change",
    [
        {"controller": "somebody-else"},
        {"incarnation": 2},
        {"old_key_id": "0" * 16},
        {"key_id": "0" * 16},
        {"public_key": b"short"},
    ],
)
def test_a_succession_that_is_not_the_origins_own_has_no_effect(
    root: MemoryController, region: MemoryController, change: dict[str, object]
) -> None:
    fresh = Ed25519Signer.generate()

    def succeed(proposal: Proposal) -> None:
        before = proposal.mark()
        changed: authority_pb2.KeySuccession = proposal.succeed(
            fresh.public_key, principal="x"
        ).body()
        proposal.revert(before)
        for name, value in change.items():
            setattr(changed, name, value)
        proposal.write("region-a", "controllers/x", "key_succession", changed, principal="x")

    region.submit(succeed)
    root.receive_from(region)
    held = root.state.streams[StreamId("region-a", region.identity.origin, Lane.CONTROL)]
    assert held.quarantine_reason == "SUCCESSION_INVALID"
    assert not root.state.keys.knows(region.name, fresh.key_id)


def test_nothing_follows_a_succession_in_its_commit(region: MemoryController) -> None:
    fresh = Ed25519Signer.generate()

    def succeed_and_write(proposal: Proposal) -> None:
        proposal.succeed(fresh.public_key, principal="x")
        assert proposal.full
        proposal.write(*POLICY, policy_pb2.PolicySpec(version="v1"), principal="x")

    with pytest.raises(WrongState):
        region.submit(succeed_and_write)


def test_a_controller_with_a_key_that_was_succeeded_writes_nothing(
    region: MemoryController,
) -> None:
    old = region.signer
    region.rotate_key()
    region.signer = old
    with pytest.raises(KeyNotInForce, match="succeeded"):
        region.write_policy("region-a", "v1")


def test_a_controller_with_a_key_nobody_granted_writes_nothing(region: MemoryController) -> None:
    region.signer = Ed25519Signer.generate()
    with pytest.raises(KeyNotInForce, match="grant-key"):
        region.write_policy("region-a", "v1")


def test_after_a_rewind_the_newest_key_seals_the_next_incarnation_and_the_old_one_does_not(
    root: MemoryController, region: MemoryController
) -> None:
    old = region.signer
    region.rotate_key()
    root.receive_from(region)
    keys, table = root.state.keys, root.state.authority
    stream = StreamId("region-a", region.identity.origin._replace(incarnation=2), Lane.STATE)
    judged = partial(keys.standing, stream, "region-a", 1, 1, table=table)
    assert judged(key_id=region.signer.key_id) == ""
    assert judged(key_id=old.key_id) == KEY_SUPERSEDED
