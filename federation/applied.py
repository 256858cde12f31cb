"""What one commit changed, for whoever follows the state. Owns the shape of that report; changes nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from federation.codec import EventDecoder, Write
from federation.errors import CorruptStore
from federation.identifiers import Key, StreamId

#: Aspects whose writes are each a transition: what they were one after the other matters, beside what they are.
TRANSITION_ASPECTS = frozenset({"link_state", "lifecycle", "attestation"})


class AuditItem(NamedTuple):
    """An audit event with its place, as bytes: a hundred thousand are kept at hand."""

    stream: StreamId
    sequence: int
    raw: bytes

    @property
    def write(self) -> Write:
        """The event as a write."""
        write = _DECODER.decode_stored(self.stream.origin, self.sequence, self.raw)
        if write is None:
            raise CorruptStore(f"audit entry {self.sequence} of {self.stream} is none")
        return write


_DECODER = EventDecoder()


#: Makes an `AuditItem` of a tuple of its parts.
as_audit_item: Callable[[tuple[Any, ...]], AuditItem] = partial(tuple.__new__, AuditItem)


@dataclass(slots=True)
class Applied:
    """What one commit changed."""

    offset: int
    keys: list[Key] = field(default_factory=list)
    streams: set[StreamId] = field(default_factory=set)
    audits: list[AuditItem] = field(default_factory=list)
    quarantined: list[tuple[StreamId, str]] = field(default_factory=list)
    #: Writes of a superseded master that came into effect late.
    superseded: list[tuple[Key, Write]] = field(default_factory=list)
    #: Every write of an aspect whose writes are transitions, also those that others in the commit supersede.
    transitions: list[tuple[Key, Write]] = field(default_factory=list)
    #: The tree of domains, or who holds authority in it, changed.
    authority_changed: bool = False
