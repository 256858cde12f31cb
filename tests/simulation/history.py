"""What really happened, seen from outside the fleet. Owns the record that the invariants are checked against; no
controller reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from federation.codec import ASPECTS, Term, Write
from federation.identifiers import Key, StreamId
from federation.proposal import Built
from federation.state import State
from tests.simulation.world import InvariantViolated

#: One event of the fleet: its stream and its number.
Place = tuple[StreamId, int]


class Mastership(NamedTuple):
    """Under which mastership a write was made: where it began, and whether the writer held it."""

    since: Term
    held: bool


@dataclass(slots=True)
class Figures:
    """What a simulation counts."""

    events: int = 0
    conflicts: int = 0
    crashes: int = 0
    cuts: int = 0
    writes: int = 0
    acknowledged: int = 0
    transfers: int = 0
    optimistic: int = 0
    rotations: int = 0
    expulsions: int = 0
    forgeries: int = 0

    def add(self, other: Figures) -> None:
        """Adds another simulation's figures."""
        for name in Figures.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class History:
    """All writes that became durable, what clients were told of them, and under which mastership they were made."""

    figures: Figures = field(default_factory=Figures)
    writes: dict[Place, Write] = field(default_factory=dict)
    by_key: defaultdict[Key, list[Write]] = field(default_factory=lambda: defaultdict(list))
    #: Request, who told its client so, and what it wrote.
    acknowledged: list[tuple[str, str, Place]] = field(default_factory=list)
    executions: defaultdict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    #: By stream, number and stamp: of two drafts for one place only one became durable.
    masterships: dict[tuple[StreamId, int, int], Mastership] = field(default_factory=dict)
    #: (domain, since) -> the one master that records of it name.
    masters: dict[tuple[str, Term], str] = field(default_factory=dict)
    #: Streams that forged runs were made of.
    forged: set[StreamId] = field(default_factory=set)
    #: Bounds on effective stamps, set where the root received the events: last numbers of runs, and bounds.
    received_at_root: dict[StreamId, tuple[list[int], list[int]]] = field(default_factory=dict)

    def note_commit(self, controller: str, built: Built) -> None:
        """Own events of a controller became durable."""
        for (stream, _), run in built.prepared.items():
            if stream.origin.controller != controller:
                continue
            for write in run.writes:
                if write is None:
                    continue
                place = (stream, write.sequence)
                if place in self.writes:
                    raise InvariantViolated("I3", f"{place} was written twice")
                self.writes[place] = write
                if write.aspect == "audit":
                    continue
                key = Key(stream.domain, write.subject, write.aspect)
                self.by_key[key].append(write)
                if write.request_id and ASPECTS[write.aspect].contested:
                    self.figures.writes += 1
                    self.executions[write.request_id].append(place)

    def note_execution(self, request_id: str, state: State) -> None:
        """A request is executed by a controller that has this state (I9)."""
        for stream, sequence in self.executions.get(request_id, ()):
            held = state.streams.get(stream)
            if held is not None and held.applied >= sequence:
                raise InvariantViolated(
                    "I9",
                    f"{state.controller} executes {request_id} again, having {stream} {sequence}",
                )

    def mastership_of(self, key: Key, write: Write) -> Mastership | None:
        """The mastership a client's write was made under; None for other writes."""
        stream = StreamId(key.domain, write.origin, ASPECTS[key.aspect].lane)
        return self.masterships.get((stream, write.sequence, write.stamp))

    def note_received_at_root(self, stream: StreamId, last: int, bound: int) -> None:
        """The root took in a run; `bound` is the highest stamp that honest clocks could have given it (I7)."""
        lasts, bounds = self.received_at_root.setdefault(stream, ([], []))
        lasts.append(last)
        bounds.append(bound)

    def bound_at_root(self, stream: StreamId, sequence: int) -> int | None:
        """The bound of an event; None when it never came to the root."""
        lasts, bounds = self.received_at_root.get(stream, ([], []))
        at = bisect_left(lasts, sequence)
        return bounds[at] if at < len(lasts) else None
