from __future__ import annotations

import pytest

from federation.chain import chain_start, extend, seal
from federation.codec import stream_from_message
from federation.examination import Findings, examine
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.receipt import Receipt
from souverix.event.v1 import event_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller


@pytest.fixture
def root() -> MemoryController:
    return root_controller()


@pytest.fixture
def region(root: MemoryController) -> MemoryController:
    return controller_below(root, "region-a-control", "region-a")


def new_run(region: MemoryController, version: str = "v1") -> event_pb2.Run:
    region.write_policy("region-a", version)
    return region.commits[-1].runs[-1]


def found(receiver: MemoryController, run: event_pb2.Run, follows: bytes | None = None) -> Findings:
    stream = stream_from_message(run.stream)
    start = chain_start(stream) if follows is None else follows
    return examine(stream, run, start, receiver.state.keys, receiver.state.decoder)


def receipt(receiver: MemoryController, run: event_pb2.Run, findings: Findings) -> Receipt:
    return receiver.submit(lambda proposal: proposal.receive("a peer", run, findings))


def changed(run: event_pb2.Run) -> event_pb2.Run:
    other = event_pb2.Run()
    other.CopyFrom(run)
    other.seal.signature = bytes(64)
    return other


def test_a_good_run_is_found_good_and_decoded(
    root: MemoryController, region: MemoryController
) -> None:
    findings = found(root, new_run(region))
    assert findings.chain_is_good
    assert findings.seal_is_good
    assert findings.writes is not None
    assert [write.subject for write in findings.writes if write] == ["policies/p1"]


def test_a_run_that_does_not_follow_is_not_decoded(
    root: MemoryController, region: MemoryController
) -> None:
    findings = found(root, new_run(region), follows=bytes(32))
    assert not findings.chain_is_good
    assert findings.writes is None


def test_a_bad_seal_is_found(root: MemoryController, region: MemoryController) -> None:
    bad = changed(new_run(region))
    findings = found(root, bad)
    assert findings.chain_is_good
    assert not findings.seal_is_good
    assert receipt(root, bad, findings) is Receipt.QUARANTINED


def test_bytes_that_are_no_event_are_found(
    root: MemoryController, region: MemoryController
) -> None:
    run = new_run(region)
    stream = stream_from_message(run.stream)
    events = [b"\xff\xff"]
    run = event_pb2.Run(
        stream=run.stream,
        first_sequence=1,
        events=events,
        seal=seal(region.signer, stream, 1, extend(chain_start(stream), events)),
    )
    findings = found(root, run)
    assert findings.seal_is_good
    assert findings.writes is None
    assert receipt(root, run, findings) is Receipt.QUARANTINED


def test_findings_on_the_chain_at_hand_are_taken_over(
    root: MemoryController, region: MemoryController
) -> None:
    run = new_run(region)
    findings = found(root, run)
    proposal = Proposal(root.state, root.identity, root.clock, root.signer, root.now_ms)
    assert proposal.receive("a peer", run, findings) is Receipt.TAKEN
    built = proposal.build(bytes(16), "r1", 1)
    (received,) = built.prepared.values()
    assert received.writes is findings.writes


def test_a_run_may_be_examined_before_the_one_it_follows_is_committed(
    root: MemoryController, region: MemoryController
) -> None:
    first, second = new_run(region, "v1"), new_run(region, "v2")
    early = found(root, second, follows=first.seal.chain_hash)
    assert receipt(root, first, found(root, first)) is Receipt.TAKEN
    assert receipt(root, second, early) is Receipt.TAKEN


def test_findings_made_on_another_chain_do_not_count(
    root: MemoryController, region: MemoryController
) -> None:
    run = new_run(region)
    assert receipt(root, run, found(root, run, follows=bytes(32))) is Receipt.TAKEN


def test_findings_on_another_run_do_not_count(
    root: MemoryController, region: MemoryController
) -> None:
    run = new_run(region)
    assert receipt(root, changed(run), found(root, run)) is Receipt.QUARANTINED


def test_a_key_that_came_after_the_examination_counts(
    root: MemoryController, region: MemoryController
) -> None:
    run = new_run(region)
    other = MemoryController("region-b-control", "region-b", root.root_signer)
    findings = found(other, run)
    assert findings.chain_is_good
    assert not findings.seal_is_good
    other.receive_from(root)
    assert receipt(other, run, findings) is Receipt.TAKEN
    winner = other.state.winner(Key("region-a", "policies/p1", "policy"))
    assert winner is not None
