"""What a backlog must be to be believed: bounds, chain, order, form, signature; what is kept of one that was cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.nodelink.proof import chain_next, chain_start, end_message
from controller.nodelink.staging import (
    MAX_CHUNK_BYTES,
    MAX_PARKED_BYTES,
    MAX_REPORTS,
    PARKED_FOR_S,
    Parked,
    Staging,
    Violation,
)
from controller.signing import Ed25519Signer, Ed25519Verifier
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.nodelink.v1 import nodelink_pb2

KEY = Ed25519Signer.generate()
TOKEN = b"token"


def report(sequence: int, version: str = "") -> bytes:
    body = node_pb2.ActualState(reported_version=version or f"v{sequence}")
    return nodelink_pb2.Report(sequence=sequence, actual_state=body).SerializeToString()


class Sender:
    """An honest agent's chunks of `count` reports, `each` a chunk, from `first`."""

    def __init__(self, count: int = 6, each: int = 2, first: int = 1) -> None:
        self.chunks: list[nodelink_pb2.ReplayChunk] = []
        head = chain_start("n1", "s1", first)
        for at in range(first, first + count, each):
            raws = [report(number) for number in range(at, min(at + each, first + count))]
            for raw in raws:
                head = chain_next(head, raw)
            chunk = nodelink_pb2.ReplayChunk(
                number=len(self.chunks) + 1, first_sequence=at, reports=raws, chain_hash=head
            )
            self.chunks.append(chunk)
        last = self.chunks[-1]
        last.signature = KEY.sign(end_message(TOKEN, first + count - 1, 0, head))


def is_signed(message: bytes, signature: bytes) -> bool:
    return Ed25519Verifier().verify(KEY.public_key, message, signature)


def staged(*chunks: nodelink_pb2.ReplayChunk, first: int = 1) -> Staging:
    staging = Staging("n1", "s1", first)
    for chunk in chunks:
        staging.take(chunk)
    return staging


def refused(*chunks: nodelink_pb2.ReplayChunk) -> str:
    """The reason for which the last of some chunks is refused; what came before it stays as it was."""
    staging = staged(*chunks[:-1])
    before = (list(staging.reports), staging.head, staging.next_chunk)
    with pytest.raises(Violation) as violation:
        staging.take(chunks[-1])
    assert (staging.reports, staging.head, staging.next_chunk) == before
    assert violation.value.evidence
    return violation.value.reason


def test_an_honest_backlog_is_staged_in_order_and_its_end_is_verified() -> None:
    sender = Sender()
    staging = staged(*sender.chunks)
    staging.check_end(sender.chunks[-1], TOKEN, is_signed)
    sequences = [nodelink_pb2.Report.FromString(raw).sequence for raw in staging.reports]
    assert sequences == [1, 2, 3, 4, 5, 6]
    assert (staging.last, staging.next_chunk) == (6, 4)


@pytest.mark.parametrize("bit", [0, 7, 40, -1])
def test_a_flipped_bit_breaks_the_chain(bit: int) -> None:
    chunk = Sender().chunks[0]
    raw = bytearray(chunk.reports[1])
    raw[(bit // 8) % len(raw)] ^= 1 << (bit % 8)
    chunk.reports[1] = bytes(raw)
    assert refused(chunk) == "CHAIN_BROKEN"


def test_a_missing_chunk_and_a_reordered_one_are_seen() -> None:
    first, second, third = Sender().chunks
    assert refused(first, third) == "CHUNK_MISSING"
    assert refused(second) == "CHUNK_MISSING"
    renumbered = nodelink_pb2.ReplayChunk()
    renumbered.CopyFrom(third)
    renumbered.number = 2
    assert refused(first, renumbered) == "CHAIN_BROKEN"


def test_a_repeated_chunk_counts_once_and_another_in_its_place_is_refused() -> None:
    first, second, _ = Sender().chunks
    staging = staged(first, second)
    assert staging.take(first) is False
    assert staging.last == 4
    other = Sender(2).chunks[0]
    other.reports[0] = report(1, "forged")
    head = chain_start("n1", "s1", 1)
    for raw in other.reports:
        head = chain_next(head, raw)
    other.chain_hash = head
    assert refused(first, second, other) == "CHUNK_REPEATED"


def test_a_number_that_no_chunk_has_is_refused() -> None:
    zero = nodelink_pb2.ReplayChunk(number=0, reports=[report(1)])
    assert refused(zero) == "CHUNK_REPEATED"


def resealed(change: Callable[[list[bytes]], None]) -> nodelink_pb2.ReplayChunk:
    """A chunk whose chain is right for what it holds after a change."""
    chunk = Sender(4, 4).chunks[0]
    raws = list(chunk.reports)
    change(raws)
    del chunk.reports[:]
    chunk.reports.extend(raws)
    head = chain_start("n1", "s1", 1)
    for raw in raws:
        head = chain_next(head, raw)
    chunk.chain_hash = head
    return chunk


def test_reports_out_of_order_or_from_the_future_are_refused() -> None:
    def swap(raws: list[bytes]) -> None:
        raws[0], raws[1] = raws[1], raws[0]

    def skip(raws: list[bytes]) -> None:
        del raws[1]

    def ahead(raws: list[bytes]) -> None:
        raws[3] = report(1_000_000)

    def again(raws: list[bytes]) -> None:
        raws[1] = raws[0]

    for change in (swap, skip, ahead, again):
        assert refused(resealed(change)) == "SEQUENCE_BROKEN"


def test_what_is_no_report_or_cannot_be_written_is_refused() -> None:
    def garbage(raws: list[bytes]) -> None:
        raws[2] = b"\xff\xff\xff"

    def nothing(raws: list[bytes]) -> None:
        raws[2] = nodelink_pb2.Report(sequence=3).SerializeToString()

    def bad_digest(raws: list[bytes]) -> None:
        inventory = observation_pb2.Inventory()
        inventory.large_values.add(digest="none", size_bytes=1)
        raws[2] = nodelink_pb2.Report(sequence=3, inventory=inventory).SerializeToString()

    assert refused(resealed(garbage)) == "UNDECODABLE"
    assert refused(resealed(nothing)) == "REPORT_INVALID"
    assert refused(resealed(bad_digest)) == "REPORT_INVALID"


def test_oversized_and_empty_chunks_are_refused() -> None:
    big = nodelink_pb2.ReplayChunk(number=1, reports=[bytes(MAX_CHUNK_BYTES + 1)])
    assert refused(big) == "OVERSIZED"
    many = nodelink_pb2.ReplayChunk(number=1, reports=[b""] * (MAX_REPORTS + 1))
    assert refused(many) == "OVERSIZED"
    assert refused(nodelink_pb2.ReplayChunk(number=1)) == "CHUNK_EMPTY"


def test_a_truncated_backlog_cannot_be_ended() -> None:
    sender = Sender()
    staging = staged(*sender.chunks[:2])
    stolen = nodelink_pb2.ReplayChunk(number=3, signature=sender.chunks[-1].signature)
    stolen.chain_hash = staging.head
    assert staging.take(stolen)
    with pytest.raises(Violation) as violation:
        staging.check_end(stolen, TOKEN, is_signed)
    assert violation.value.reason == "SIGNATURE_INVALID"


@pytest.mark.parametrize("what", ["key", "token", "remaining"])
def test_an_end_signed_by_another_key_or_over_something_else_is_refused(what: str) -> None:
    sender = Sender()
    staging, end = staged(*sender.chunks), sender.chunks[-1]
    token = TOKEN
    if what == "key":
        message = end_message(TOKEN, 6, 0, staging.head)
        end.signature = Ed25519Signer.generate().sign(message)
    elif what == "token":
        token = b"another session"
    else:
        end.remaining_reports = 1
    with pytest.raises(Violation) as violation:
        staging.check_end(end, token, is_signed)
    assert violation.value.reason == "SIGNATURE_INVALID"


def test_a_chain_is_of_one_node_one_source_and_one_beginning() -> None:
    starts = {
        chain_start("n1", "s1", 1),
        chain_start("n2", "s1", 1),
        chain_start("n1", "s2", 1),
        chain_start("n1", "s1", 2),
        chain_start("n1s", "1", 1),
    }
    assert len(starts) == 5


def test_a_cut_replay_is_resumed_by_its_own_node_source_and_beginning_only() -> None:
    sender = Sender()
    parked = Parked()
    for source, first, expected in (("s1", 1, 4), ("s2", 1, 0), ("s1", 5, 4)):
        parked.park(staged(*sender.chunks[:2]), 0.0)
        assert parked.resume("n1", source, first, 1.0).last == expected
    assert parked.resume("n1", "s1", 1, 1.0).last == 0


def test_what_was_cut_long_ago_or_is_too_much_is_forgotten() -> None:
    parked = Parked()
    parked.park(staged(*Sender().chunks[:2]), 0.0)
    assert parked.resume("n1", "s1", 1, PARKED_FOR_S + 1).last == 0
    for number in range(3):
        held = Staging(f"n{number}", "s1", 1)
        held.reports.append(b"x")
        held.size = MAX_PARKED_BYTES // 2
        parked.park(held, 0.0)
    kept = [len(parked.resume(f"n{number}", "s1", 1, 1.0).reports) for number in range(3)]
    assert kept == [0, 1, 1]
