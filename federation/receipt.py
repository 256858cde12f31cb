"""What becomes of a peer's run when its turn in the log comes: taken, repeated, beyond a gap, or refused and kept as
evidence. Owns that judgement; records nothing (`federation.proposal` does) and brings nothing into effect.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

from federation.codec import Write
from federation.errors import InvalidWrite
from federation.examination import Findings, examine
from federation.identifiers import Origin, StreamId
from federation.state import State
from souverix.event.v1 import event_pb2

#: Largest run a peer may hand over. Senders cut at half of it; above it a run would not share a commit with others.
MAX_RUN_BYTES = 512 * 1024


class Receipt(enum.Enum):
    """What became of a run at receipt."""

    TAKEN = "TAKEN"
    #: Every event was here already.
    REPEATED = "REPEATED"
    #: Events before it are missing; nothing was taken.
    GAP = "GAP"
    #: Refused and kept as evidence, without effect.
    QUARANTINED = "QUARANTINED"


class Head(NamedTuple):
    """Where a stream stands: number and chain hash of its last event here."""

    received: int
    chain_hash: bytes


class Judgement(NamedTuple):
    """What becomes of one run."""

    receipt: Receipt
    #: The run; of one that is taken, the part that was not here yet.
    run: event_pb2.Run
    #: Why it is quarantined.
    reason: str = ""
    writes: Sequence[Write | None] = ()
    #: A known key made its seal.
    verified: bool = False


def judge(
    writer: Origin,
    stream: StreamId,
    run: event_pb2.Run,
    head: Head,
    state: State,
    findings: Findings | None,
) -> Judgement:
    """Judges a run of a stream that stands at `head`: numbers, chain and seal.

    Of the own streams of `writer` only those of earlier incarnations are taken back, and only under a known key.
    `findings` save the work where they still fit. Raises `InvalidWrite` for a run that is malformed or too large.
    """
    check_shape(stream, run)
    if run.seal.sequence <= head.received:
        return Judgement(Receipt.REPEATED, run)
    if run.first_sequence > head.received + 1:
        return Judgement(Receipt.GAP, run)
    own = stream.origin.controller == writer.controller
    if own and stream.origin.incarnation >= writer.incarnation:
        return Judgement(Receipt.QUARANTINED, run, "OWN_STREAM_AHEAD")
    run = _beyond(run, head.received)
    keys = state.keys
    if findings is None or findings.run is not run or findings.follows != head.chain_hash:
        findings = examine(stream, run, head.chain_hash, keys, state.decoder)
    if not findings.chain_is_good:
        return Judgement(Receipt.QUARANTINED, run, "CHAIN_MISMATCH")
    verified = keys.knows(stream.origin.controller, run.seal.key_id)
    if verified and not findings.seal_is_good and not keys.seal_is_good(stream, run.seal):
        return Judgement(Receipt.QUARANTINED, run, "SEAL_INVALID")
    if own and not verified:
        return Judgement(Receipt.QUARANTINED, run, "KEY_UNKNOWN")
    if findings.writes is None:
        return Judgement(Receipt.QUARANTINED, run, "UNDECODABLE")
    return Judgement(Receipt.TAKEN, run, "", findings.writes, verified)


def check_shape(stream: StreamId, run: event_pb2.Run) -> None:
    """Raises `InvalidWrite` for a run that holds nothing, does not end at its seal, or is too large."""
    size = sum(map(len, run.events))
    if not run.events or run.first_sequence < 1:
        raise InvalidWrite(f"run of {stream} holds no events")
    if run.seal.sequence != run.first_sequence + len(run.events) - 1:
        raise InvalidWrite(f"run of {stream} does not end at its seal")
    if size > MAX_RUN_BYTES:
        raise InvalidWrite(f"run of {stream} is {size} bytes; at most {MAX_RUN_BYTES} are allowed")


def _beyond(run: event_pb2.Run, received: int) -> event_pb2.Run:
    """The part of a run after the events received already."""
    if run.first_sequence > received:
        return run
    return event_pb2.Run(
        stream=run.stream,
        first_sequence=received + 1,
        events=run.events[received + 1 - run.first_sequence :],
        seal=run.seal,
    )
