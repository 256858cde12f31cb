"""Streams that are sealed from above, and decisions on what is held: what they void, wherever they come and when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.signing import Ed25519Signer
from federation.chain import chain_start, extend, seal
from federation.codec import stream_from_message, stream_to_message
from federation.errors import KeyNotInForce, NotFound, OutOfReach, WrongState
from federation.expulsion import domain_below
from federation.identifiers import Key, Lane, StreamId
from federation.proposal import Proposal
from federation.receipt import Receipt
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller
from tests.federation_store import MemoryStore, contents

ZONE = "edge-a1"
POLICY = Key(ZONE, "policies/p1", "policy")


class Tree:
    """A root, a region and a zone, whose controller turns out to be compromised."""

    def __init__(self) -> None:
        self.root = root_controller()
        self.region = controller_below(self.root, "region-a-control", "region-a")
        self.zone = controller_below(self.region, "edge-a1-control", ZONE)
        self.root.receive_from(self.region)

    def observer(self) -> MemoryController:
        """Somebody who knows nothing yet."""
        return MemoryController("observer", ROOT, self.root.root_signer)


@pytest.fixture
def tree() -> Tree:
    return Tree()


def version(state: State, key: Key = POLICY) -> str:
    winner = state.winner(key)
    return winner.body().version if winner is not None else ""


def stream_of(controller: MemoryController, lane: Lane = Lane.CONTROL) -> StreamId:
    return StreamId(controller.identity.domain, controller.identity.origin, lane)


def runs_of(*controllers: MemoryController) -> list[event_pb2.Run]:
    """What these controllers wrote."""
    return [
        run
        for controller in controllers
        for commit in controller.commits
        for run in commit.runs
        if run.stream.controller == controller.name
    ]


def taken(at: MemoryController, run: event_pb2.Run) -> Receipt:
    def receive(proposal: Proposal) -> Receipt:
        return proposal.receive("a peer", run)

    return at.submit(receive)


def facts(state: State) -> dict[str, object]:
    """What a state comes to, whatever the order in which it came."""
    return {
        "table": {
            key: tuple(sorted(write.raw for write in siblings))
            for key, siblings in state.table.items()
        },
        "authority": dict(state.authority.records),
        "keys": sorted(grant.SerializeToString() for grant in state.keys.grants()),
        "knows": state.grounds.knows,
        "audits": sorted(item.raw for item in state.audits),
        "applied": {s: held.applied for s, held in state.streams.items() if held.applied},
    }


# What a seal voids.


def test_what_was_written_above_the_seal_is_void_and_what_stood_below_it_stands_again(
    tree: Tree,
) -> None:
    tree.zone.write_policy(ZONE, "honest")
    tree.region.receive_from(tree.zone)
    at = tree.region.state.streams[stream_of(tree.zone)]
    position = (at.received, at.chain_hash)
    tree.zone.write_policy(ZONE, "evil")
    tree.region.receive_from(tree.zone)
    assert version(tree.region.state) == "evil"

    tree.region.expel(tree.zone.name, {stream_of(tree.zone): position})

    assert version(tree.region.state) == "honest"
    held = tree.region.state.streams[stream_of(tree.zone)]
    assert (held.applied, held.received, held.quarantine_reason) == (1, 2, "STREAM_SEALED")


def test_a_stream_the_seal_does_not_name_is_void_from_its_first_event(tree: Tree) -> None:
    tree.region.expel(tree.zone.name, {})
    tree.zone.write_policy(ZONE, "evil")
    [run] = runs_of(tree.zone)
    assert taken(tree.region, run) is Receipt.QUARANTINED
    assert version(tree.region.state) == ""


def test_whoever_receives_the_seal_undoes_what_it_voids_also_the_sealed_controller_itself(
    tree: Tree,
) -> None:
    tree.zone.write_policy(ZONE, "evil")
    tree.root.receive_from(tree.zone)
    tree.region.receive_from(tree.zone)
    tree.region.expel(tree.zone.name, {})

    tree.root.receive_from(tree.region)
    tree.zone.receive_from(tree.region)

    for controller in (tree.root, tree.region, tree.zone):
        assert version(controller.state) == ""
        assert contents(controller.replayed()) == contents(controller.state)


def test_of_several_seals_the_lowest_position_holds(tree: Tree) -> None:
    for number in range(4):
        tree.zone.write_policy(ZONE, f"v{number}")
    tree.root.receive_from(tree.zone)
    tree.region.receive_from(tree.zone)
    chain = chain_start(stream_of(tree.zone))
    chains = [chain := extend(chain, run.events) for run in runs_of(tree.zone)]
    for last, by in ((3, tree.region), (1, tree.root), (2, tree.region)):
        by.expel(tree.zone.name, {stream_of(tree.zone): (last, chains[last - 1])})
    tree.root.receive_from(tree.region)
    tree.region.receive_from(tree.root)
    assert version(tree.root.state) == version(tree.region.state) == "v0"


def test_what_rests_on_a_voided_fact_falls_with_it(tree: Tree) -> None:
    """The zone declares a domain below it after it was taken over; its controller's writes rest on that."""
    evil = controller_below(tree.zone, "evil-control", "evil")
    evil.write_policy("evil", "evil", subject="policies/p2")
    tree.region.receive_from(tree.zone)
    tree.region.receive_from(evil)
    key = Key("evil", "policies/p2", "policy")
    assert version(tree.region.state, key) == "evil"

    tree.region.expel(tree.zone.name, {})

    assert version(tree.region.state, key) == ""
    assert "evil" not in tree.region.state.authority.records
    held = tree.region.state.streams[stream_of(evil)]
    assert (held.applied, held.waiting_reason) == (0, "KEY_UNKNOWN")


def test_a_seal_by_one_who_is_sealed_below_it_is_void_itself(tree: Tree) -> None:
    tree.zone.write_policy(ZONE, "v1")
    tree.root.receive_from(tree.zone)
    tree.region.receive_from(tree.zone)
    before = tree.root.state.streams[StreamId(ZONE, tree.region.identity.origin, Lane.CONTROL)]
    position = (before.received, before.chain_hash)
    tree.region.expel(tree.zone.name, {})
    tree.root.receive_from(tree.region)
    assert version(tree.root.state) == ""
    others = {
        stream: (held.received, held.chain_hash)
        for stream, held in tree.root.state.streams.items()
        if stream.origin.controller == tree.region.name and stream.domain == "region-a"
    }
    zone_control = StreamId(ZONE, tree.region.identity.origin, Lane.CONTROL)

    tree.root.expel(tree.region.name, {**others, zone_control: position})

    assert version(tree.root.state) == "v1"
    assert contents(tree.root.replayed()) == contents(tree.root.state)


def test_a_branch_that_the_controller_above_does_not_hold_has_no_effect(tree: Tree) -> None:
    """The compromised controller tells one side another history than its parent."""
    stream = stream_of(tree.zone)
    observer = tree.observer()
    observer.receive_from(tree.root)
    observer.receive_from(tree.region)
    told = [
        event_pb2.Event(
            stamp=number, subject="policies/p9", policy=policy_pb2.PolicySpec(version="evil")
        ).SerializeToString()
        for number in (1, 2)
    ]
    chain = chain_start(stream)
    for number, event in enumerate(told, 1):
        chain = extend(chain, [event])
        run = event_pb2.Run(
            stream=stream_to_message(stream),
            first_sequence=number,
            events=[event],
            seal=seal(tree.zone.signer, stream, number, chain),
        )
        assert taken(observer, run) is Receipt.TAKEN
    tree.zone.write_policy(ZONE, "v1")
    tree.zone.write_policy(ZONE, "v2")
    tree.region.receive_from(tree.zone)
    tree.region.expel(tree.zone.name)

    observer.receive_from(tree.region)

    assert version(observer.state, Key(ZONE, "policies/p9", "policy")) == ""
    assert observer.state.streams[stream].quarantine_reason == "CHAIN_CONTRADICTED"
    assert contents(observer.replayed()) == contents(observer.state)


# Who may seal.


def test_nobody_seals_the_streams_of_one_who_is_not_below(tree: Tree) -> None:
    sibling = controller_below(tree.region, "edge-a2-control", "edge-a2")
    tree.root.receive_from(tree.region)
    with pytest.raises(OutOfReach):
        domain_below(sibling.state, "edge-a2", tree.root.name)
    with pytest.raises(WrongState):
        domain_below(tree.region.state, "region-a", tree.region.name)
    with pytest.raises(NotFound):
        domain_below(tree.region.state, "region-a", "nobody")


@pytest.mark.parametrize(
    ("by", "whose", "domain", "reason"),
    [
        ("zone", "edge-a1-control", ZONE, "SELF_GRANT"),
        ("zone", "region-a-control", ZONE, "SELF_GRANT"),
        ("region", "global-control", ZONE, "NOT_ABOVE_ORIGIN"),
        ("region", "region-a-control", ZONE, "NOT_ABOVE_ORIGIN"),
        ("region", "region-a-control", "region-a", "SELF_GRANT"),
    ],
)
def test_a_seal_from_below_is_refused(
    tree: Tree, by: str, whose: str, domain: str, reason: str
) -> None:
    writer: MemoryController = getattr(tree, by)
    sealed = authority_pb2.StreamSealed(controller=whose, domain=domain, incarnation=1, reason="x")
    writer.submit(
        lambda p: p.write(domain, f"controllers/{whose}", "stream_sealed", sealed, principal="x")
    )
    tree.root.receive_from(writer)
    held = tree.root.state.streams[StreamId(domain, writer.identity.origin, Lane.CONTROL)]
    assert held.quarantine_reason == reason
    assert tree.root.state.grounds.bounds.sealed_incarnation(whose) == 0


# The next incarnation.


def test_a_sealed_controller_goes_on_under_a_new_incarnation_with_a_key_granted_for_it(
    tree: Tree,
) -> None:
    tree.zone.write_policy(ZONE, "evil")
    tree.region.receive_from(tree.zone)
    tree.region.expel(tree.zone.name, {})
    tree.zone.receive_from(tree.region)
    with pytest.raises(KeyNotInForce, match="sealed"):
        tree.zone.write_policy(ZONE, "again")
    stolen, tree.zone.signer = tree.zone.signer, Ed25519Signer.generate()
    tree.zone.go_on()
    with pytest.raises(KeyNotInForce):
        tree.zone.write_policy(ZONE, "not yet")

    tree.region.grant_key(tree.zone.name, tree.zone.signer.public_key)
    tree.zone.receive_from(tree.region)
    tree.zone.write_policy(ZONE, "healed")
    tree.region.receive_from(tree.zone)
    tree.root.receive_from(tree.region)
    tree.root.receive_from(tree.zone)

    assert version(tree.region.state) == version(tree.root.state) == "healed"
    stream = StreamId(ZONE, tree.zone.identity.origin._replace(incarnation=3), Lane.STATE)
    standing = tree.region.state.keys.standing(
        stream, ZONE, 1, 1, stolen.key_id, tree.region.state.authority
    )
    assert standing == "KEY_NOT_VALID"


def test_the_stolen_key_seals_nothing_of_a_later_incarnation_also_where_it_came_first(
    tree: Tree,
) -> None:
    """Whoever holds the key writes as an incarnation of its own, before the seal arrives."""
    thief = MemoryController(tree.zone.name, ZONE, tree.root.root_signer, incarnation=7)
    thief.signer = tree.zone.signer
    thief.receive_from(tree.region)
    thief.write_policy(ZONE, "evil")
    tree.root.receive_from(tree.region)
    tree.root.receive_from(thief)
    assert version(tree.root.state) == "evil"

    tree.region.expel(tree.zone.name)
    tree.root.receive_from(tree.region)

    assert version(tree.root.state) == ""
    assert tree.root.state.streams[stream_of(thief)].waiting_reason == "KEY_NOT_VALID"


# Decisions on what is held.


def held_by_old_key(tree: Tree) -> event_pb2.Run:
    """A run that the region holds, sealed by a key that had ended, before that was known there."""
    old = tree.zone.signer
    event = event_pb2.Event(
        stamp=1, subject="nodes/n1", desired_state=node_pb2.DesiredState(target_version="late")
    ).SerializeToString()
    stream = stream_of(tree.zone, Lane.STATE)
    run = event_pb2.Run(
        stream=stream_to_message(stream),
        first_sequence=1,
        events=[event],
        seal=seal(old, stream, 1, extend(chain_start(stream), [event])),
    )
    assert taken(tree.region, run) is Receipt.TAKEN
    tree.zone.rotate_key()
    tree.region.receive_from(tree.zone)
    assert tree.region.state.streams[stream].quarantine_reason == "KEY_SUPERSEDED"
    return run


def decide(
    by: MemoryController, run: event_pb2.Run, ruling: authority_pb2.Ruling, **changes: object
) -> None:
    decision = authority_pb2.RunDecision(
        controller=run.stream.controller,
        domain=run.stream.domain,
        incarnation=run.stream.incarnation,
        lane=int(run.stream.lane),
        first_sequence=run.first_sequence,
        last_sequence=run.seal.sequence,
        chain_hash=run.seal.chain_hash,
        ruling=ruling,
        reason="an operator looked",
    )
    for name, value in changes.items():
        setattr(decision, name, value)
    by.submit(
        lambda p: p.write(run.stream.domain, "runs/x", "run_decision", decision, principal="x")
    )


DESIRED = Key(ZONE, "nodes/n1", "desired_state")


def test_an_accepted_run_takes_effect_everywhere_though_its_key_had_ended(tree: Tree) -> None:
    run = held_by_old_key(tree)
    observer = tree.observer()
    observer.receive_from(tree.root)
    observer.receive(tree.region.name, run)

    decide(tree.region, run, authority_pb2.RULING_ACCEPT)
    observer.receive_from(tree.region)
    observer.receive_from(tree.zone)

    for state in (tree.region.state, observer.state):
        winner = state.winner(DESIRED)
        assert winner is not None
        assert winner.body().target_version == "late"
        assert not state.blocked
    assert contents(observer.replayed()) == contents(observer.state)


def test_a_discarded_run_has_no_effect_and_does_not_hold_up_what_follows(tree: Tree) -> None:
    run = held_by_old_key(tree)
    decide(tree.region, run, authority_pb2.RULING_DISCARD)
    held = tree.region.state.streams[stream_from_message(run.stream)]
    assert (held.applied, held.skipped, len(held.waiting)) == (1, [(1, 1)], 0)
    assert tree.region.state.winner(DESIRED) is None


def test_a_discard_undoes_what_took_effect_where_it_comes_late(tree: Tree) -> None:
    run = held_by_old_key(tree)
    observer = tree.observer()
    for run_before in runs_of(tree.root, tree.region):
        observer.receive(tree.region.name, run_before)
    observer.receive(tree.region.name, run)
    assert observer.state.winner(DESIRED) is not None

    decide(tree.region, run, authority_pb2.RULING_DISCARD)
    observer.receive_from(tree.region)

    assert observer.state.winner(DESIRED) is None
    assert contents(observer.replayed()) == contents(observer.state)


@pytest.mark.parametrize(
    "changes", [{"chain_hash": b"another"}, {"first_sequence": 2, "last_sequence": 2}]
)
def test_a_decision_on_other_events_decides_nothing_here(
    tree: Tree, changes: dict[str, object]
) -> None:
    run = held_by_old_key(tree)
    decide(tree.region, run, authority_pb2.RULING_ACCEPT, **changes)
    held = tree.region.state.streams[stream_from_message(run.stream)]
    assert (held.applied, held.quarantine_reason) == (0, "KEY_SUPERSEDED")


def test_a_decision_from_below_is_refused(tree: Tree) -> None:
    run = held_by_old_key(tree)
    decide(tree.zone, run, authority_pb2.RULING_ACCEPT)
    tree.region.receive_from(tree.zone)
    assert tree.region.state.streams[stream_of(tree.zone)].quarantine_reason == "SELF_GRANT"
    assert tree.region.state.winner(DESIRED) is None


def test_refused_runs_are_listed_until_somebody_discards_them(tree: Tree) -> None:
    tree.zone.write_policy(ZONE, "v1")
    [run] = runs_of(tree.zone)
    forged = event_pb2.Run()
    forged.CopyFrom(run)
    forged.seal.signature = bytes(64)
    assert taken(tree.region, forged) is Receipt.QUARANTINED
    assert tree.region.state.refused_runs(stream_of(tree.zone)) == 1

    decide(tree.region, forged, authority_pb2.RULING_DISCARD)

    assert tree.region.state.refused_runs(stream_of(tree.zone)) == 0


# Any order.


def history(chance: random.Random) -> Tree:
    """A tree in which keys rotate, a zone is taken over, sealed and goes on."""
    tree = Tree()
    root, region, zone = tree.root, tree.region, tree.zone
    branch = controller_below(zone, "branch-control", "branch")

    def write(by: MemoryController, domain: str) -> None:
        by.write_policy(domain, f"v{chance.random()}", subject=f"policies/p{chance.randrange(2)}")

    def sync() -> None:
        for above, below in ((root, region), (region, zone), (zone, branch)):
            above.receive_from(below)
            below.receive_from(above)

    for _ in range(chance.randrange(2, 12)):
        action = chance.randrange(7)
        if action == 0:
            chance.choice([root, region, zone, branch]).rotate_key()
        elif action == 1:
            sync()
        elif action == 2:
            write(region, ZONE)
        elif action == 3:
            write(branch, "branch")
        else:
            write(zone, ZONE)
    region.receive_from(zone)
    held = region.state.streams
    positions = {
        stream: (held[stream].received, held[stream].chain_hash)
        for stream in held
        if stream.origin.controller == zone.name and chance.random() < 0.8
    }
    for _ in range(chance.randrange(3)):
        write(zone, ZONE)
        write(branch, "branch")
    region.expel(zone.name, positions)
    zone.receive_from(region)
    zone.signer = Ed25519Signer.generate()
    zone.go_on()
    region.grant_key(zone.name, zone.signer.public_key)
    zone.receive_from(region)
    write(zone, ZONE)
    if chance.random() < 0.4:
        root.receive_from(region)
        streams = {
            stream: (held.received, held.chain_hash)
            for stream, held in root.state.streams.items()
            if stream.origin.controller == region.name and chance.random() < 0.7
        }
        write(region, ZONE)
        root.expel(region.name, streams)
    tree.branch = branch  # type: ignore[attr-defined]
    return tree


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_whatever_the_order_of_arrival_the_outcome_is_the_same(seed: int, order: int) -> None:
    tree = history(random.Random(seed))
    branch = tree.branch  # type: ignore[attr-defined]
    writers = [tree.root, tree.region, tree.zone, branch]
    outcomes = []
    for chance in (random.Random(order), random.Random(order + 1)):
        streams: dict[StreamId, list[event_pb2.Run]] = {}
        for run in runs_of(*writers):
            streams.setdefault(stream_from_message(run.stream), []).append(run)
        observer = tree.observer()
        while streams:
            stream = chance.choice(sorted(streams))
            taken(observer, streams[stream].pop(0))
            if not streams[stream]:
                del streams[stream]
        # What was refused is sent again in the next session.
        for _ in writers:
            for run in runs_of(*writers):
                taken(observer, run)
        assert facts(observer.replayed()) == facts(observer.state)
        outcomes.append(facts(observer.state))
    assert outcomes[0] == outcomes[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_checkpoint_and_what_follows_it_give_the_same_bounds_and_outcome(seed: int) -> None:
    chance = random.Random(seed)
    tree = history(chance)
    branch = tree.branch  # type: ignore[attr-defined]
    observer = tree.observer()
    runs = runs_of(tree.root, tree.region, tree.zone, branch)
    for run in sorted(runs, key=lambda run: (run.first_sequence, chance.random())):
        taken(observer, run)
    whole = observer.replayed()
    fresh = whole.controller, whole.keys.verifier, whole.keys.root_key
    state, store = State(*fresh, whole.grounds.foreknown), MemoryStore()
    store.follow(state)
    for commit in observer.commits:
        store.take_note(state.apply(commit.offset, commit))
        if chance.random() < 0.2:
            store.store(lambda: chance.random() < 0.5)
            state = store.restored(State(*fresh))
            for later in observer.commits[state.next_offset : commit.offset + 1]:
                store.take_note(state.apply(later.offset, later))
    assert contents(state) == contents(whole)
    assert state.grounds.stand
