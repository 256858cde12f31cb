"""Which conflicts must be recorded, and which were. Owns the duty that no losing value passes unrecorded (I2); never
writes the record itself.

A conflict becomes due in two ways: two rivals stand side by side here, or an event arrives that says it resolved
rivals which never stood here together. In the second case the record waits until every value it lists has arrived;
one that was here and was superseded since comes no more, and is listed without its value. A record speaks for every
conflict whose siblings are among its own: of three rivals, other controllers may have met any two first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from federation.causality import covers
from federation.codec import Write
from federation.identifiers import Dot, Key
from federation.merge import Rank, Siblings, conflict_id_of
from souverix.federation.v1 import conflict_pb2

#: Siblings' values in one record, together: with names and terms the record stays well below the largest event.
MAX_RECORDED_VALUES_BYTES = 192 * 1024


@dataclass(slots=True)
class DueConflict:
    """A conflict no record is known of yet."""

    key: Key
    conflict_id: str
    dots: tuple[Dot, ...]
    siblings: dict[Dot, Write] = field(default_factory=dict)
    #: Siblings that were superseded here before it was known that they had a rival.
    gone: set[Dot] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Tells whether every sibling's value is here, or is known not to come."""
        return len(self.siblings) + len(self.gone - self.siblings.keys()) == len(self.dots)


class ConflictLedger:
    """Conflicts due and recorded, by id."""

    __slots__ = (
        "_awaited",
        "_due_of_key",
        "_recorded_dots",
        "due",
        "open_keys",
        "recorded",
        "records_seen",
    )

    def __init__(self) -> None:
        self.due: dict[str, DueConflict] = {}
        #: conflict id -> the write that records it, the newest last.
        self.recorded: dict[str, tuple[Key, Write]] = {}
        #: keys whose rivals still stand, with the conflict's id.
        self.open_keys: dict[Key, str] = {}
        #: Records that ever came into effect.
        self.records_seen = 0
        self._awaited: dict[tuple[Key, Dot], set[str]] = {}
        self._due_of_key: dict[Key, set[str]] = {}
        self._recorded_dots: dict[Key, list[frozenset[Dot]]] = {}

    def saw_rivals(self, key: Key, rivals: Siblings) -> None:
        """Rivals stand side by side after a merge (none: they no longer do)."""
        if not rivals:
            self.open_keys.pop(key, None)
            return
        by_dot = {r.dot: r for r in rivals}
        conflict_id = conflict_id_of(key, tuple(by_dot))
        self.open_keys[key] = conflict_id
        due = self._due(key, conflict_id, tuple(by_dot))
        if due is not None:
            due.siblings.update(by_dot)

    def saw_resolution(
        self, key: Key, write: Write, held: Siblings, was_here: Callable[[Key, Dot], bool]
    ) -> None:
        """An event arrived that lists what it resolved; `held` stood here before it, and `was_here` tells which
        events came into effect here at any time.
        """
        conflict_id = conflict_id_of(key, write.resolves)
        if conflict_id in self.due:
            return
        due = self._due(key, conflict_id, write.resolves)
        if due is None:
            return
        for sibling in held:
            if sibling.dot in write.resolves:
                due.siblings[sibling.dot] = sibling
        for dot in due.dots:
            if dot in due.siblings:
                continue
            if was_here(key, dot):
                due.gone.add(dot)
            else:
                self._awaited.setdefault((key, dot), set()).add(conflict_id)

    def saw_covered(self, key: Key, write: Write) -> None:
        """An event arrived that something here had already seen; due records may wait for its value."""
        for conflict_id in self._awaited.pop((key, write.dot), ()):
            if conflict_id in self.due:
                self.due[conflict_id].siblings[write.dot] = write

    def saw_record(self, conflict_id: str, key: Key, write: Write, dots: Collection[Dot]) -> None:
        """A record that lists these siblings is in effect."""
        self.recorded.pop(conflict_id, None)
        self.recorded[conflict_id] = (key, write)
        self.records_seen += 1
        listed = frozenset(dots)
        self._recorded_dots.setdefault(key, []).append(listed)
        for due_id in list(self._due_of_key.get(key, ())):
            if due_id == conflict_id or listed.issuperset(self.due[due_id].dots):
                self._settle(self.due[due_id])

    def restore_due(self, due: DueConflict) -> None:
        """Takes in a conflict that was due when this ledger was stored."""
        self.due[due.conflict_id] = due
        self._due_of_key.setdefault(due.key, set()).add(due.conflict_id)
        for dot in due.dots:
            if dot not in due.siblings and dot not in due.gone:
                self._awaited.setdefault((due.key, dot), set()).add(due.conflict_id)

    def _due(self, key: Key, conflict_id: str, dots: Collection[Dot]) -> DueConflict | None:
        """The due conflict of these siblings; None when a record speaks for them already."""
        if conflict_id in self.recorded or any(
            listed.issuperset(dots) for listed in self._recorded_dots.get(key, ())
        ):
            return None
        due = self.due.get(conflict_id)
        if due is None:
            due = self.due[conflict_id] = DueConflict(key, conflict_id, tuple(sorted(dots)))
            self._due_of_key.setdefault(key, set()).add(conflict_id)
        return due

    def _settle(self, due: DueConflict) -> None:
        del self.due[due.conflict_id]
        of_key = self._due_of_key[due.key]
        of_key.discard(due.conflict_id)
        if not of_key:
            del self._due_of_key[due.key]
        for dot in due.dots:
            waiting = self._awaited.get((due.key, dot))
            if waiting is not None:
                waiting.discard(due.conflict_id)
                if not waiting:
                    del self._awaited[(due.key, dot)]

    def records_due(self) -> list[DueConflict]:
        """Conflicts whose values are all here and which no record names."""
        return [due for due in self.due.values() if due.complete]


def conflict_record(due: DueConflict, rank: Rank, *, resolved: bool) -> conflict_pb2.ConflictRecord:
    """The record of a complete conflict, winner first. `resolved`: its rivals stand no more.

    Values that together exceed `MAX_RECORDED_VALUES_BYTES` are left out, the winner's first, then the largest: they
    are in their streams, where controller, incarnation and number find them.
    """
    key = due.key
    ordered = sorted(
        due.siblings.values(), key=lambda w: (*rank(key, w), w.origin, w.sequence), reverse=True
    )
    record = conflict_pb2.ConflictRecord(
        conflict_id=due.conflict_id,
        domain=key.domain,
        subject=key.subject,
        aspect=key.aspect,
        resolved_when_recorded=resolved,
    )
    for write in ordered:
        term, effective_stamp = rank(key, write)
        record.siblings.add(
            controller=write.origin.controller,
            incarnation=write.origin.incarnation,
            sequence=write.sequence,
            principal=write.principal,
            request_id=write.request_id,
            effective_stamp=effective_stamp,
            term=term,
            optimistic=write.optimistic,
            event=write.raw,
            winner=write is ordered[0],
        )
    for dot in due.dots:
        if dot not in due.siblings:
            record.siblings.add(
                controller=dot.origin.controller,
                incarnation=dot.origin.incarnation,
                sequence=dot.sequence,
            )
    excess = sum(len(s.event) for s in record.siblings) - MAX_RECORDED_VALUES_BYTES
    for sibling in sorted(record.siblings, key=lambda s: (not s.winner, -len(s.event))):
        if excess <= 0:
            break
        excess -= len(sibling.event)
        sibling.ClearField("event")
    return record


def resolves_of(rivals: Siblings) -> tuple[Dot, ...]:
    """What an event that sees these rivals lists as resolved."""
    return tuple(sorted(r.dot for r in rivals))


def is_resolved_by(write: Write, dots: tuple[Dot, ...]) -> bool:
    """Tells whether a write had seen all of these."""
    return all(covers(write.context, dot) for dot in dots)
