from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.bundles import Follower, Selection, Standing, held_positions, positions
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import Lane, StreamId
from federation.link_scope import LinkScope
from federation.receipt import Receipt
from federation.session_settings import PeerRole
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    return controller_below(root, "region-a-control", "region-a")


def scope_of(controller: MemoryController, role: PeerRole, peer_domain: str) -> LinkScope:
    scope = LinkScope(controller.state.authority, controller.identity.domain, role, frozenset())
    scope.peer_domain = peer_domain
    return scope


def down(root: MemoryController) -> LinkScope:
    return scope_of(root, PeerRole.CHILD, "region-a")


def up(region: MemoryController) -> LinkScope:
    return scope_of(region, PeerRole.PARENT, "global")


def selected(
    controller: MemoryController, scope: LinkScope, held: dict[StreamId, int], step: int = 3
) -> Iterator[event_pb2.Run]:
    """The runs of a bundle, the log being read a few commits at a time."""
    selection = Selection(controller.state, scope.is_sent, held)
    while (reading := selection.next_reading()) is not None:
        at = reading.first_offset
        commits = controller.commits[at : at + step]
        selection.take(reading, commits)
        yield from selection.runs()


def own_runs(region: MemoryController) -> list[event_pb2.Run]:
    """The runs of a bundle that the region itself wrote."""
    runs = selected(region, up(region), {})
    return [run for run in runs if run.stream.controller == region.name]


def take_in(controller: MemoryController, peer: str, runs: list[event_pb2.Run]) -> list[Receipt]:
    return [controller.submit(lambda p, run=run: p.receive(peer, run)) for run in runs]  # type: ignore[misc]


def test_a_bundle_brings_what_a_session_would(
    root: MemoryController, region: MemoryController
) -> None:
    for number in range(7):
        root.write_policy("global", f"v{number}")
        region.write_policy("region-a", f"w{number}")
    runs = list(selected(region, up(region), {}))
    assert set(take_in(root, region.name, runs)) <= {Receipt.TAKEN, Receipt.REPEATED}
    for stream, held in region.state.streams.items():
        if up(region).is_sent(stream):
            assert root.state.received(stream) == held.received
            assert root.state.chain_hash(stream) == held.chain_hash


def test_the_next_bundle_leaves_out_what_the_last_one_back_acknowledged(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    take_in(root, region.name, list(selected(region, up(region), {})))
    said = positions(root.state, down(root).may_bring)
    region.write_policy("region-a", "second")
    runs = list(selected(region, up(region), held_positions(said, region.state)))
    assert sum(len(run.events) for run in runs) == 1


def test_audit_does_not_go_down(root: MemoryController, region: MemoryController) -> None:
    runs = list(selected(root, down(root), {}))
    assert runs
    assert Lane.AUDIT not in {Lane(run.stream.lane) for run in runs}


def test_what_is_written_while_a_bundle_is_made_is_the_next_ones(
    root: MemoryController, region: MemoryController
) -> None:
    selection = Selection(region.state, up(region).is_sent, {})
    expected = sum(
        held.received for stream, held in region.state.streams.items() if up(region).is_sent(stream)
    )
    count = 0
    while (reading := selection.next_reading()) is not None:
        region.write_policy("region-a", "meanwhile")
        selection.take(reading, region.commits[reading.first_offset :])
        count += sum(len(run.events) for run in selection.runs())
    assert count == expected


def test_runs_are_followed_without_being_taken(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    region.write_policy("region-a", "second")
    runs = list(selected(region, up(region), {}, step=1))
    before = root.state.next_offset
    follower = Follower(root.state, down(root).may_bring)
    assert {follower.stand(run) for run in runs} <= {Standing.NEW, Standing.APPLIED}
    assert root.state.next_offset == before
    take_in(root, region.name, runs)
    again = Follower(root.state, down(root).may_bring)
    assert {again.stand(run) for run in runs} == {Standing.APPLIED}


def test_a_gap_names_what_is_missing(root: MemoryController, region: MemoryController) -> None:
    for version in ("first", "second", "third"):
        region.write_policy("region-a", version)
    *_, last = [
        r for r in selected(region, up(region), {}, step=1) if Lane(r.stream.lane) is Lane.CONTROL
    ]
    follower = Follower(root.state, down(root).may_bring)
    assert follower.stand(last) is Standing.GAP
    [missing] = follower.missing.values()
    held = root.state.received(missing.stream)
    assert (missing.first_sequence, missing.last_sequence) == (held + 1, last.first_sequence - 1)


def test_other_events_under_the_same_numbers_are_a_rollback(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    runs = list(selected(region, up(region), {}))
    take_in(root, region.name, runs)
    run = event_pb2.Run()
    run.CopyFrom(runs[-1])
    run.seal.chain_hash = bytes(32)
    assert Follower(root.state, down(root).may_bring).stand(run) is Standing.ROLLBACK


def test_a_run_that_does_not_follow_what_is_held_is_a_rollback(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    [run] = own_runs(region)
    changed = event_pb2.Run()
    changed.CopyFrom(run)
    changed.events[-1] = changed.events[-1] + b"\x30\x01"
    assert Follower(root.state, down(root).may_bring).stand(changed) is Standing.ROLLBACK


def test_a_seal_that_a_known_key_did_not_make_is_forged(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    [run] = own_runs(region)
    changed = event_pb2.Run()
    changed.CopyFrom(run)
    changed.seal.signature = bytes(64)
    assert Follower(root.state, down(root).may_bring).stand(changed) is Standing.FORGED


def test_a_child_brings_its_subtree_only(root: MemoryController, region: MemoryController) -> None:
    other = controller_below(root, "region-b-control", "region-b")
    other.write_policy("region-b", "theirs")
    [run] = [
        r
        for r in selected(other, scope_of(other, PeerRole.PARENT, "global"), {})
        if r.stream.domain == "region-b" and r.stream.controller == other.name
    ]
    assert Follower(root.state, down(root).may_bring).stand(run) is Standing.OUT_OF_SCOPE


def test_a_malformed_run_is_the_bringers_fault(root: MemoryController) -> None:
    with pytest.raises(InvalidWrite):
        Follower(root.state, down(root).may_bring).stand(event_pb2.Run())


def test_a_peer_that_holds_another_head_is_sent_that_stream_whole(
    region: MemoryController,
) -> None:
    [said] = [
        p
        for p in positions(region.state, up(region).is_sent)
        if Lane(p.stream.lane) is Lane.CONTROL and p.stream.controller == region.name
    ] or positions(region.state, up(region).is_sent)[:1]
    other = sync_pb2.StreamPosition()
    other.CopyFrom(said)
    other.chain_hash = bytes(32)
    assert held_positions([other], region.state) == {}
    assert len(held_positions([said], region.state)) == 1


def test_what_a_peer_holds_beyond_ours_counts_as_far_as_we_hold_it(
    region: MemoryController,
) -> None:
    said = positions(region.state, up(region).is_sent)[0]
    said.sequence += 10
    [held] = held_positions([said], region.state).values()
    assert held == said.sequence - 10


def followed(controller: MemoryController, runs: list[event_pb2.Run]) -> Follower:
    follower = Follower(controller.state, down(controller).may_bring)
    assert {follower.stand(run) for run in runs} <= {Standing.NEW, Standing.APPLIED}
    return follower


def test_what_is_read_again_is_taken_without_being_computed_again(
    root: MemoryController, region: MemoryController, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        region.write_policy("region-a", f"v{number}")
    runs = list(selected(region, up(region), {}, step=1))
    again = followed(root, runs).read_again()

    def refuse(*_: object) -> bool:
        raise AssertionError("a chain or a seal was computed again")

    monkeypatch.setattr("federation.examination.extend", refuse)
    monkeypatch.setattr(root.state.keys.verifier, "verify", refuse)
    new = [run for run in runs if run.seal.sequence > held_of(root, run)]
    assert len(new) >= 5
    for run in new:
        found = again.examine(run)
        assert found is not None
        assert root.submit(lambda p: p.receive(region.name, run, found)) is Receipt.TAKEN  # noqa: B023
    assert {stream for stream in region.state.streams if up(region).is_sent(stream)} <= {
        stream
        for stream, held in root.state.streams.items()
        if held.chain_hash == region.state.chain_hash(stream)
    }


def held_of(controller: MemoryController, run: event_pb2.Run) -> int:
    return controller.state.received(stream_from_message(run.stream))


def test_what_was_held_already_is_not_vouched_for(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    take_in(root, region.name, list(selected(region, up(region), {})))
    region.write_policy("region-a", "second")
    runs = own_runs(region)
    again = followed(root, runs).read_again()
    overlapping = [run for run in runs if run.first_sequence <= held_of(root, run)]
    assert overlapping
    assert [again.examine(run) for run in overlapping] == [None] * len(overlapping)


def test_a_seal_whose_key_became_known_in_between_is_judged_by_receipt(
    root: MemoryController, region: MemoryController
) -> None:
    region.write_policy("region-a", "first")
    [forged] = own_runs(region)
    forged.seal.signature = bytes(64)
    observer = MemoryController("observer", "region-a", root.root_signer)
    follower = Follower(observer.state, lambda stream: True)
    assert follower.stand(forged) is Standing.NEW
    observer.receive_from(root)
    found = follower.read_again().examine(forged)
    assert found is not None
    assert not found.seal_is_good
    receipt = observer.submit(lambda p: p.receive(root.name, forged, found))
    assert receipt is Receipt.QUARANTINED
