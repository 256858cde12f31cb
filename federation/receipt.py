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
from federation.keys import KEY_NOT_VALID, KEY_SUPERSEDED
from federation.state import State
from souverix.event.v1 import event_pb2

#: Largest run a peer may hand over. Senders cut at half of it; above it a run would not share a commit with others.
MAX_RUN_BYTES = 512 * 1024

#: Bytes of one stream held without effect: some ten thousand events. Their sender keeps what follows.
MAX_HELD_BYTES = 8 * 1024 * 1024

#: Streams held without effect above which no new one is taken: a peer may name as many as it likes.
MAX_HELD_STREAMS = 1_024


class Receipt(enum.Enum):
    """What became of a run at receipt."""

    TAKEN = "TAKEN"
    #: Every event was here already.
    REPEATED = "REPEATED"
    #: Events before it are missing; nothing was taken.
    GAP = "GAP"
    #: Refused and kept as evidence, without effect.
    QUARANTINED = "QUARANTINED"
    #: Of the stream as much is held without effect as there is room for; nothing was taken.
    NO_ROOM = "NO_ROOM"


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
    peer: str,
    writer: Origin,
    stream: StreamId,
    run: event_pb2.Run,
    head: Head,
    state: State,
    findings: Findings | None,
) -> Judgement:
    """Judges a run of a stream that stands at `head`, which the controller `peer` brought: numbers, chain and seal.

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
    if not verified and (own or _is_beyond(peer, stream.origin.controller, writer, state)):
        return Judgement(Receipt.QUARANTINED, run, "KEY_UNKNOWN")
    if findings.writes is None:
        return Judgement(Receipt.QUARANTINED, run, "UNDECODABLE")
    ended = _why_ended(stream, run, state)
    if ended:
        return Judgement(Receipt.QUARANTINED, run, ended)
    if stream in state.blocked and state.streams[stream].waiting_bytes >= MAX_HELD_BYTES:
        return Judgement(Receipt.NO_ROOM, run)
    if len(state.blocked) >= MAX_HELD_STREAMS and stream not in state.streams:
        return Judgement(Receipt.NO_ROOM, run)
    return Judgement(Receipt.TAKEN, run, "", findings.writes, verified)


def _is_beyond(peer: str, controller: str, writer: Origin, state: State) -> bool:
    """Tells whether a peer from below brings what one writes who is not below it. Such a run must be good at receipt:
    held for want of a key, a forged one would take the place of those that come on the straight way.
    """
    keys, is_within = state.keys, state.authority.is_within
    own, theirs = keys.domains_of(writer.controller), keys.domains_of(peer)
    served = keys.domains_of(controller)
    is_below = any(is_within(domain, above) for domain in theirs - own for above in own)
    return is_below and any(not any(is_within(d, t) for t in theirs) for d in served)


def _why_ended(stream: StreamId, run: event_pb2.Run, state: State) -> str:
    """Why a run cannot belong to its stream, whatever else becomes known: kept out, it does not stand in the way of the
    one that does.
    """
    limit = state.limit(stream)
    if limit is not None and run.first_sequence > limit.last:
        return limit.reason
    keys, table = state.keys, state.authority
    first, last, key_id = run.first_sequence, run.seal.sequence, run.seal.key_id
    controller = stream.origin.controller
    if not keys.is_bounded(controller) or not keys.knows(controller, key_id):
        return ""
    if table.path_of(stream.domain) is None:
        return ""
    why = keys.standing(stream, stream.domain, first, last, key_id, table)
    if why not in (KEY_SUPERSEDED, KEY_NOT_VALID):
        return ""
    decided = state.grounds.bounds.decisions(stream)
    return "" if any(d.first <= first and last <= d.last for d in decided) else why


def check_shape(stream: StreamId, run: event_pb2.Run) -> None:
    """Raises `InvalidWrite` for a run that holds nothing, does not end at its seal, or is too large."""
    if not run.events or run.first_sequence < 1:
        raise InvalidWrite(f"run of {stream} holds no events")
    if run.seal.sequence != run.first_sequence + len(run.events) - 1:
        raise InvalidWrite(f"run of {stream} does not end at its seal")
    # The whole message is never smaller than its events, and knows its size.
    if run.ByteSize() > MAX_RUN_BYTES and (size := sum(map(len, run.events))) > MAX_RUN_BYTES:
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
