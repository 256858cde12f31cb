"""What takes effect from events that were, or would be, accepted: seals put on streams from above, and decisions on
events that are held. Owns these facts by the stream they speak of; whether one may be stated is acceptance's to say.

A fact of this kind holds for events whenever they came, also before it. A fold that meets it too late, having brought
into effect what it voids, is *outdated*: it is made anew, with such facts *foreknown*, so that the outcome is the same
in whatever order they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from federation.identifiers import Lane, Origin, StreamId
from federation.keys import ends_of
from souverix.federation.v1 import authority_pb2

#: Grounds on which a stream goes no further.
STREAM_SEALED = "STREAM_SEALED"
CHAIN_CONTRADICTED = "CHAIN_CONTRADICTED"

#: Tells whether a domain is another one or below it.
IsWithin = Callable[[str, str], bool]


class Limit(NamedTuple):
    """How far a stream counts."""

    last: int
    #: Chain hash after that event; empty where none is named.
    chain_hash: bytes
    reason: str = STREAM_SEALED


class Decision(NamedTuple):
    """What becomes of events `first` to `last` of a stream, if these are they."""

    first: int
    last: int
    chain_hash: bytes
    discards: bool


class _Sealed(NamedTuple):
    domain: str
    incarnation: int
    positions: dict[StreamId, authority_pb2.StreamEnd]


@dataclass(slots=True)
class Foreknown:
    """Facts a fold is told before it meets their events, as serialised bodies by aspect."""

    facts: dict[str, set[bytes]] = field(default_factory=dict)
    #: Streams that are held here otherwise than the controller above them holds them.
    contradicted: set[StreamId] = field(default_factory=set)

    def add(self, aspect: str, body: bytes) -> None:
        """Adds a fact."""
        self.facts.setdefault(aspect, set()).add(body)

    def covers(self, other: Foreknown) -> bool:
        """Tells whether all that the other knows stands here, too."""
        return other.contradicted <= self.contradicted and all(
            bodies <= self.facts.get(aspect, set()) for aspect, bodies in other.facts.items()
        )

    def sealed(self) -> Iterator[authority_pb2.StreamSealed]:
        """The seals among the facts, in one order everywhere."""
        for body in sorted(self.facts.get("stream_sealed", ())):
            yield authority_pb2.StreamSealed.FromString(body)

    def decisions(self) -> Iterator[authority_pb2.RunDecision]:
        """The decisions among the facts."""
        for body in sorted(self.facts.get("run_decision", ())):
            yield authority_pb2.RunDecision.FromString(body)

    def successions(self) -> Iterator[authority_pb2.KeySuccession]:
        """The successions of keys among the facts."""
        for body in sorted(self.facts.get("key_succession", ())):
            yield authority_pb2.KeySuccession.FromString(body)


class Bounds:
    """The seals and decisions that a fold judges by."""

    __slots__ = ("_contradicted", "_decisions", "_sealed")

    def __init__(self) -> None:
        self._sealed: dict[str, list[_Sealed]] = {}
        self._decisions: dict[StreamId, list[Decision]] = {}
        self._contradicted: set[StreamId] = set()

    def seal(self, fact: authority_pb2.StreamSealed) -> None:
        """Takes in how far the streams of a controller count."""
        entry = _Sealed(fact.domain, fact.incarnation, ends_of(fact.controller, fact.streams))
        sealed = self._sealed.setdefault(fact.controller, [])
        if entry not in sealed:
            sealed.append(entry)

    def decide(self, fact: authority_pb2.RunDecision) -> StreamId:
        """Takes in a decision on events; returns their stream."""
        stream = decided_stream(fact)
        entry = Decision(
            fact.first_sequence,
            fact.last_sequence,
            fact.chain_hash,
            fact.ruling == authority_pb2.RULING_DISCARD,
        )
        decisions = self._decisions.setdefault(stream, [])
        if entry not in decisions:
            decisions.append(entry)
        return stream

    def contradict(self, stream: StreamId) -> None:
        """Takes in that a stream is held here otherwise than above: nothing of it counts here."""
        self._contradicted.add(stream)

    def concern(self, stream: StreamId) -> bool:
        """Tells whether any of this is about a stream or its controller."""
        return (
            stream[1][0] in self._sealed
            or stream in self._decisions
            or stream in self._contradicted
        )

    def limit(self, stream: StreamId, is_within: IsWithin) -> Limit | None:
        """How far a stream counts; None: it does not end."""
        if stream in self._contradicted:
            return Limit(0, b"", CHAIN_CONTRADICTED)
        sealed = self._sealed.get(stream[1][0])
        if sealed is None:
            return None
        lowest: Limit | None = None
        for fact in sealed:
            if stream[1][1] > fact.incarnation or not is_within(stream[0], fact.domain):
                continue
            end = fact.positions.get(stream)
            found = Limit(end.last_sequence, end.chain_hash) if end is not None else Limit(0, b"")
            lowest = found if lowest is None else min(lowest, found)
        return lowest

    def sealed_incarnation(self, controller: str) -> int:
        """The highest incarnation of a controller whose streams end; 0: none does."""
        return max((fact.incarnation for fact in self._sealed.get(controller, ())), default=0)

    def decisions(self, stream: StreamId) -> list[Decision]:
        """The decisions on events of a stream; discards first, for they hold against the others."""
        found = self._decisions.get(stream)
        return sorted(found, key=lambda d: (not d.discards, d)) if found else []


def decided_stream(fact: authority_pb2.RunDecision) -> StreamId:
    """The stream a decision speaks of. Raises `ValueError` for an unknown lane."""
    return StreamId(fact.domain, Origin(fact.controller, fact.incarnation), Lane(fact.lane))
