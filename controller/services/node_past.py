"""The past of nodes, read from the log: events newest first, and facts as they stood at a time. Owns the reading and
its bounds; which event follows which is `controller/query/lineage.py`'s.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from typing import NamedTuple

import grpc

from controller.errors import ServiceError
from controller.query.lineage import Place, joined, places_of, seen_by
from controller.replica import Replica
from controller.twin.node import NODE_ASPECTS
from controller.twin.policy import POLICY_ASPECTS
from federation.codec import Write, stream_from_message
from federation.identifiers import Key
from federation.merge import Siblings, winner_of
from federation.state import State
from souverix.event.v1 import event_pb2

#: Commits read for one answer: at a commit a look some seconds, after which the caller goes on with a token.
MAX_LOOKS = 4096

#: Bytes of commits read for one answer.
MAX_LOOK_BYTES = 256 * 1024 * 1024

#: Commits kept while an answer is made: events that were written together stand in one.
KEPT_COMMITS = 16


class PastEvent(NamedTuple):
    """One event of the log. `time_ms` is when it was committed here."""

    place: Place
    write: Write
    event: event_pb2.Event
    offset: int
    time_ms: int


class OutOfReach(Exception):
    """Reading on would take more than one answer may."""


class PastReader:
    """Looks into the log, for one answer."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._commits: OrderedDict[int, event_pb2.Commit] = OrderedDict()
        self._looks = 0
        self._bytes = 0
        #: Events that are named and no longer in the log.
        self.missing = 0

    def time_ms(self, place: Place) -> int | None:
        """When an event was committed here; None when it is not held."""
        held = self._state.streams.get(place.stream)
        return held.index.time_ms_of(place.dot.sequence) if held is not None else None

    def offset(self, place: Place) -> int | None:
        """Offset of the commit that holds an event; None when it is not held."""
        held = self._state.streams.get(place.stream)
        return held.index.offset_of(place.dot.sequence) if held is not None else None

    async def event(self, place: Place) -> PastEvent | None:
        """One event; None when the log does not reach back to it. Raises `OutOfReach`, `LogError`."""
        offset, time_ms = self.offset(place), self.time_ms(place)
        commit = await self._commit(offset) if offset is not None else None
        if commit is None or offset is None or time_ms is None:
            self.missing += 1
            return None
        for run in commit.runs:
            at = place.dot.sequence - run.first_sequence
            if 0 <= at < len(run.events) and stream_from_message(run.stream) == place.stream:
                raw = run.events[at]
                write = self._state.decoder.decode(place.stream, place.dot.sequence, raw)
                if write is not None:
                    event = event_pb2.Event.FromString(raw)
                    return PastEvent(place, write, event, offset, time_ms)
        self.missing += 1
        return None

    async def _commit(self, offset: int) -> event_pb2.Commit | None:
        commit = self._commits.get(offset)
        if commit is not None:
            self._commits.move_to_end(offset)
            return commit
        if self._looks >= MAX_LOOKS or self._bytes >= MAX_LOOK_BYTES:
            raise OutOfReach
        found = await self._replica.read_commits(offset, 1)
        if not found or found[0].offset != offset:
            return None
        self._looks += 1
        self._bytes += found[0].ByteSize()
        self._commits[offset] = found[0]
        if len(self._commits) > KEPT_COMMITS:
            self._commits.popitem(last=False)
        return found[0]


class Walk:
    """Events newest first by when they were committed here, from some places back."""

    def __init__(self, reader: PastReader, starts: Iterable[Place]) -> None:
        self._reader = reader
        self._known: set[Place] = set()
        self._heap: list[tuple[int, Place]] = []
        self._push(starts)

    @property
    def left(self) -> list[Place]:
        """From where the walk goes on."""
        return [place for _, place in self._heap]

    async def events(self) -> AsyncGenerator[PastEvent, None]:
        """The events, until the first one or the log's beginning. `left` is behind what was yielded. Raises
        `OutOfReach`, `LogError`.
        """
        while self._heap:
            found = await self._reader.event(self._heap[0][1])
            _, place = heapq.heappop(self._heap)
            if found is not None:
                self._push(seen_by(place, found.event))
                yield found

    def _push(self, places: Iterable[Place]) -> None:
        for place in places:
            offset = self._reader.offset(place)
            if offset is None:
                self._reader.missing += 1
            elif place not in self._known:
                self._known.add(place)
                heapq.heappush(self._heap, (-offset, place))


class PastFacts:
    """Facts of some keys as they stood at a time, over the state as it is now."""

    def __init__(self, state: State, held: dict[Key, Siblings]) -> None:
        self.state = state
        self._held = held

    def siblings(self, key: Key) -> Siblings:
        """As of `State`, at the time."""
        return self._held.get(key, ())

    def winner(self, key: Key) -> Write | None:
        """As of `State`, at the time; ranked as things stand now."""
        held = self.siblings(key)
        return winner_of(key, held, self.state.rank) if held else None


async def facts_at(replica: Replica, subject: str, time_ms: int) -> PastFacts:
    """What was known here of a node, and of the policies that may govern it. Raises `ServiceError`, `LogError`."""
    reader = PastReader(replica)
    held: dict[Key, Siblings] = {}
    try:
        for key in _keys_behind(replica.state, subject):
            held[key] = await _siblings_at(reader, replica.state, key, time_ms)
    except OutOfReach as error:
        raise _too_far(f"{subject} was written too often since then to be read back") from error
    if reader.missing:
        raise _too_far(f"the log no longer reaches back to what {subject} was then")
    return PastFacts(replica.state, held)


async def _siblings_at(reader: PastReader, state: State, key: Key, time_ms: int) -> Siblings:
    """The siblings of a key that had been committed here by a time."""
    now = state.table.glance(key.domain, key.subject).get(key.aspect, ())
    by_dot = {write.dot: write for write in now}
    left = places_of(key, now)
    known = set(left)
    found: list[Write] = []
    while left:
        place = left.pop()
        at_ms = reader.time_ms(place)
        if at_ms is not None and at_ms <= time_ms and place.dot in by_dot:
            found.append(by_dot[place.dot])
            continue
        past = await reader.event(place)
        if past is None:
            continue
        if past.time_ms <= time_ms:
            found.append(past.write)
            continue
        earlier = [p for p in seen_by(place, past.event) if p.key == key and p not in known]
        known.update(earlier)
        left.extend(earlier)
    return joined(found)


def _keys_behind(state: State, subject: str) -> list[Key]:
    """The keys that a node's twin is composed of, wherever it lived."""
    keys = []
    policies: dict[Key, None] = {}
    for domain in state.domains_of_subject.get(subject, ()):
        keys += [Key(domain, subject, aspect) for aspect in NODE_ASPECTS]
        for above in state.authority.path_of(domain) or (domain,):
            for policy in state.subjects_of(above, "policies"):
                policies.update({Key(above, policy, aspect): None for aspect in POLICY_ASPECTS})
    return [*keys, *policies]


def _too_far(message: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "HISTORY_OUT_OF_REACH",
        f"{message}; ask for a later time, or go through ListNodeEvents",
    )
