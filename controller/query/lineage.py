"""From an event to those its writer had seen: the way back through the log, key by key. Owns which events those are;
reads nothing.

Every event names what its writer had seen of its key (design §5), so a node's history needs no search: one step back is
one look into the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from federation.codec import ASPECTS, Write
from federation.identifiers import Dot, Key, Origin, StreamId
from federation.merge import Siblings, merge
from souverix.event.v1 import event_pb2


class Place(NamedTuple):
    """One event: the key it writes, and its number."""

    key: Key
    dot: Dot

    @property
    def stream(self) -> StreamId:
        """The stream it stands in."""
        return StreamId(self.key.domain, self.dot.origin, ASPECTS[self.key.aspect].lane)


def places_of(key: Key, siblings: Siblings) -> list[Place]:
    """Where a key's way back begins."""
    return [Place(key, write.dot) for write in siblings]


def seen_by(place: Place, event: event_pb2.Event) -> list[Place]:
    """The events of its key that an event's writer had seen last, one of each origin; of one that was carried over from
    another domain, what it carries.
    """
    if event.HasField("moved_from"):
        moved = event.moved_from
        key = place.key._replace(domain=moved.domain)
        return [Place(key, _dot(moved.dot))] if moved.HasField("dot") else []
    found = [Place(place.key, _dot(dot)) for dot in event.context]
    if event.own_seen:
        found.append(Place(place.key, Dot(place.dot.origin, event.own_seen)))
    return found


def joined(writes: Iterable[Write]) -> Siblings:
    """The siblings that some writes of one key leave."""
    siblings: Siblings = ()
    for write in writes:
        siblings = merge(siblings, write)
    return siblings


def _dot(message: event_pb2.Dot) -> Dot:
    return Dot(Origin(message.controller, message.incarnation), message.sequence)
