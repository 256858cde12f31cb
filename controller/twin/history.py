"""What nodes went through: the newest transitions of each one's connectivity and lifecycle. Owns the bound on them; a
fold of the log, fed commit by commit and the same again after a replay.

Transitions stay in memory until a store has taken them over; where there is none, for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from federation.applied import Applied
from federation.codec import Write
from federation.state import State

#: Transitions kept of one node and aspect: a month of a node that goes and comes daily, some 20 KiB.
MAX_TRANSITIONS = 64

#: Of one node and domain, transitions in memory above which the oldest are dropped: never often, never by many.
TRIM_ABOVE = 4 * MAX_TRANSITIONS

#: (domain, subject) -> transitions in the order in which they came.
Transitions = Mapping[tuple[str, str], list[Write]]


class PastTransitions(Protocol):
    """Where transitions are that are not in memory."""

    def transitions(self, domain: str, subject: str) -> list[Write]:
        """Those of one subject in one domain, in the order in which they came."""


class Histories:
    """The transitions of all nodes, each aspect for itself."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._past: PastTransitions | None = None
        self._fresh: dict[tuple[str, str], list[Write]] = {}
        self._leaving: dict[tuple[str, str], list[Write]] = {}

    def attach(self, past: PastTransitions) -> None:
        """Names the store that takes transitions over."""
        self._past = past

    def take_note(self, applied: Applied) -> None:
        """Follows one commit. A transition carried over from another domain was seen there already."""
        for key, write in applied.transitions:
            if key.aspect == "attestation" and write.body().renewal:
                continue
            if write.event().HasField("moved_from") and any(
                held.aspect == key.aspect for held in self._all(key.subject)
            ):
                continue
            held = self._fresh.setdefault((key.domain, key.subject), [])
            held.append(write)
            if len(held) > TRIM_ABOVE:
                held[:] = newest(held)

    def of(self, subject: str, aspect: str) -> list[Write]:
        """What is held of a subject's aspect, in the order in which it happened."""
        held = newest(write for write in self._all(subject) if write.aspect == aspect)
        return sorted(held, key=lambda write: write.stamp)

    # What a store takes over.

    def leaving(self) -> Transitions:
        """What came since this was asked last, for a store to keep; it stays in memory until `left`."""
        self._leaving, self._fresh = self._fresh, {}
        return self._leaving

    def left(self) -> None:
        """The store holds what was leaving."""
        self._leaving = {}

    def _all(self, subject: str) -> Iterable[Write]:
        for domain in self._state.domains_of_subject.get(subject, ()):
            at = (domain, subject)
            past = self._past.transitions(*at) if self._past is not None else []
            known = {(write.origin, write.sequence, write.aspect) for write in past}
            yield from past
            for write in self._leaving.get(at, ()):
                if (write.origin, write.sequence, write.aspect) not in known:
                    yield write
            yield from self._fresh.get(at, ())


def newest(writes: Iterable[Write]) -> list[Write]:
    """Of each aspect the last `MAX_TRANSITIONS`, in their order."""
    kept: list[Write] = []
    count: Counter[str] = Counter()
    for write in reversed(list(writes)):
        count[write.aspect] += 1
        if count[write.aspect] <= MAX_TRANSITIONS:
            kept.append(write)
    return kept[::-1]
