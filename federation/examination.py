"""What can be found out about a peer's run before its turn in the log comes: whether its events follow what came
before them, whether its seal is good, and what they say. Owns that work, the largest part of a receipt; never decides
what becomes of the run.

A driver examines runs while the log is busy with the commit before theirs. `Proposal.receive` takes the findings over
where they were made on the very chain it stands at, and examines the run itself where they were not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.chain import extend
from federation.codec import EventDecoder, Write
from federation.errors import InvalidWrite
from federation.identifiers import StreamId
from federation.keys import KeyRing
from souverix.event.v1 import event_pb2


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about one run."""

    run: event_pb2.Run
    #: Chain hash that its events were held against.
    follows: bytes
    chain_is_good: bool
    #: A key known at the time made the seal. False: it is bad, or its key was not known.
    seal_is_good: bool
    #: What the events say; None when one of them is no event.
    writes: list[Write | None] | None


def examine(
    stream: StreamId, run: event_pb2.Run, follows: bytes, keys: KeyRing, decoder: EventDecoder
) -> Findings:
    """Examines a run of `stream` whose events are to follow the chain hash `follows`."""
    events = run.events[:]
    if extend(follows, events) != run.seal.chain_hash:
        return Findings(run, follows, chain_is_good=False, seal_is_good=False, writes=None)
    return Findings(
        run,
        follows,
        chain_is_good=True,
        seal_is_good=keys.seal_is_good(stream, run.seal),
        writes=decoded(stream, run, events, decoder),
    )


def decoded(
    stream: StreamId, run: event_pb2.Run, events: Sequence[bytes], decoder: EventDecoder
) -> list[Write | None] | None:
    """What the events of a run say; None when one of them is no event."""
    try:
        return decoder.decode_run(stream, run, events)
    except InvalidWrite:
        return None
