"""Checkpoint and tail are together what a replay of the whole log gives (I13)."""

from __future__ import annotations

import random
from functools import partial

import pytest

from controller.twin.facts import digest_of, held_of
from federation.applied import Applied
from federation.errors import CorruptStore
from federation.receipt import Receipt
from federation.restoring import restore
from federation.state import State
from souverix.event.v1 import event_pb2
from tests.federation_fixture import (
    ROOT,
    MemoryController,
    controller_below,
    root_controller,
)
from tests.federation_store import MemoryStore, contents
from tests.simulation.fleet import Controller
from tests.simulation.keys import ROOT as ROOT_KEY
from tests.simulation.keys import VERIFIER
from tests.simulation.run import play

#: Fleets with a history of faults each, of three to fifteen controllers.
SEEDS = range(15)


def fresh_of(controller: MemoryController) -> State:
    return State(controller.name, controller.state.keys.verifier, controller.root_signer.public_key)


def etags(state: State) -> dict[tuple[str, str], str]:
    found = {}
    for (domain, _), subjects in state.table.subjects.items():
        for subject in subjects:
            aspects = sorted(state.table.glance(domain, subject))
            found[domain, subject] = digest_of(state, held_of(state, domain, subject, aspects))
    return found


def check(found: State, expected: State) -> None:
    one, other = contents(found), contents(expected)
    for what, value in other.items():
        assert one[what] == value, what
    assert etags(found) == etags(expected)


def commits_of(controller: Controller) -> list[event_pb2.Commit]:
    return [controller.parse(data) for data in controller.log.data]


@pytest.mark.parametrize("seed", SEEDS)
def test_checkpoint_and_tail_are_the_whole_log_on_histories_of_faults(seed: int) -> None:
    chance = random.Random(seed)
    for controller in play(seed).controllers:
        fresh = partial(State, controller.name, VERIFIER, ROOT_KEY.public_key)
        store, state, expected = MemoryStore(), fresh(), fresh()
        store.follow(state)
        cools = partial(_happens, chance)
        for commit in commits_of(controller):
            expected.apply(commit.offset, commit)
            store.take_note(state.apply(commit.offset, commit))
            if chance.random() < 0.3:
                store.store(cools)
                if chance.random() < 0.2:
                    state = store.restored(fresh())
        check(state, expected)
        store.store(cools)
        check(store.restored(fresh()), expected)


def _happens(chance: random.Random) -> bool:
    return chance.random() < 0.5


def test_runs_that_wait_and_refused_ones_are_remembered() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.write_policy("edge-a1", "v1")
    stranger = MemoryController("observer", ROOT, root.root_signer)
    store = MemoryStore()
    store.follow(stranger.state)

    def receive(run: event_pb2.Run) -> Receipt:
        receipt = stranger.submit(lambda p: p.receive("a peer", run))
        assert stranger.last_applied is not None
        store.take_note(stranger.last_applied)
        return receipt

    runs = [run for commit in zone.commits for run in commit.runs]
    assert receive(runs[-1]) is Receipt.TAKEN
    forged = event_pb2.Run()
    forged.CopyFrom(runs[-1])
    forged.first_sequence += 1
    forged.seal.sequence += 1
    assert receive(forged) is Receipt.QUARANTINED
    store.store()
    restored = store.restored(fresh_of(stranger))
    check(restored, stranger.state)
    assert [held.waiting_reason for held in restored.streams.values()] == ["KEY_UNKNOWN"]
    assert not restored.wants_evidence(forged)

    # What they waited for comes: both states bring them into effect.
    for other in (region, root):
        before = len(stranger.commits)
        stranger.receive_from(other)
        for commit in stranger.commits[before:]:
            store.take_note(restored.apply(commit.offset, commit))
            store.store()
    assert restored.streams.keys() == stranger.state.streams.keys()
    assert not any(held.waiting for held in restored.streams.values())
    check(restored, stranger.state)
    check(store.restored(fresh_of(stranger)), stranger.state)


def test_a_checkpoint_puts_only_what_changed() -> None:
    root = root_controller()
    store = MemoryStore()
    state = fresh_of(root)
    store.follow(state)
    for number in range(600):
        root.write_policy(ROOT, f"v{number}", request_id=f"r{number}")
    for commit in root.commits:
        store.take_note(state.apply(commit.offset, commit))
    store.store()
    names = {name.partition("/")[0] for name in store.parts}
    assert names == {"position", "authority", "stream", "index", "control", "requests"}
    assert len([name for name in store.parts if name.startswith("requests/")]) == 3

    root.write_policy(ROOT, "v600", request_id="r600")
    commit = root.commits[-1]
    before = dict(store.parts)
    store.take_note(state.apply(commit.offset, commit))
    store.store()
    changed = {name for name in store.parts if store.parts[name] != before.get(name)}
    assert {name.partition("/")[0] for name in changed} == {
        "position",
        "stream",
        "index",
        "control",
        "requests",
    }
    assert len(changed) == 5


@pytest.mark.parametrize("damage", [b"\xff", b""])
def test_damaged_part_is_told_apart(damage: bytes) -> None:
    root = root_controller()
    store = MemoryStore()
    store.follow(root.state)
    store.take_note(Applied(0, streams=set(root.state.streams)))
    store.store()
    [stream] = [name for name in store.parts if name.startswith("stream/")]
    with pytest.raises(CorruptStore):
        restore(fresh_of(root), {**store.parts, stream: damage})
