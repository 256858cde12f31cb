"""The past, read from the log: events newest first, and facts as they stood at a time. Owns the reading and its bounds;
which event follows which is `controller/query/lineage.py`'s.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import grpc

from controller.errors import ServiceError
from controller.query.lineage import Place, joined, places_of, seen_by
from controller.replica import Replica
from controller.twin.node import NODE_ASPECTS
from controller.twin.policy import POLICY_ASPECTS
from federation.authority import AuthorityTable
from federation.codec import Write, stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import Key, StreamId
from federation.merge import Siblings, winner_of
from federation.state import State
from souverix.event.v1 import event_pb2

#: Commits read for one answer: at a commit a look some seconds, after which the caller goes on with a token.
MAX_LOOKS = 4096

#: Bytes of commits read for one answer.
MAX_LOOK_BYTES = 256 * 1024 * 1024

#: Bytes of log since a time that are read ahead for an answer about many nodes: some hundred thousand events, a second
#: or two, and held meanwhile.
MAX_AHEAD_BYTES = 64 * 1024 * 1024

#: Log read at once while reading ahead.
AHEAD_BATCH_BYTES = 1024 * 1024

#: Keys followed back before others get their turn.
KEYS_A_SLICE = 64

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
        self._ahead: dict[tuple[StreamId, int], bytes] = {}
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
        raw = self._ahead.get((place.stream, place.dot.sequence))
        if raw is not None and offset is not None and time_ms is not None:
            return self._decoded(place, raw, offset, time_ms)
        commit = await self._commit(offset) if offset is not None else None
        if commit is None or offset is None or time_ms is None:
            self.missing += 1
            return None
        for run in commit.runs:
            at = place.dot.sequence - run.first_sequence
            if 0 <= at < len(run.events) and stream_from_message(run.stream) == place.stream:
                return self._decoded(place, run.events[at], offset, time_ms)
        self.missing += 1
        return None

    async def read_ahead(self, time_ms: int, domains: Collection[str]) -> None:
        """Takes in what was committed after a time in the streams of some domains, so that answers about many nodes
        need not look for each event. Raises `OutOfReach`, `LogError`.
        """
        offset, size = await self._first_after(time_ms), 0
        while commits := await self._replica.read_commits(offset, AHEAD_BATCH_BYTES):
            for commit in commits:
                size += commit.ByteSize()
                if size > MAX_AHEAD_BYTES:
                    raise OutOfReach
                for run in commit.runs:
                    stream = stream_from_message(run.stream)
                    if stream.domain in domains:
                        for number, raw in enumerate(run.events, run.first_sequence):
                            self._ahead[stream, number] = raw
            offset = commits[-1].offset + 1
            await asyncio.sleep(0)

    async def _first_after(self, time_ms: int) -> int:
        """Offset of the first commit after a time; where the log begins later, of its first one."""
        low, high = 0, self._state.next_offset
        while low < high:
            middle = (low + high) // 2
            found = await self._replica.read_commits(middle, 1)
            if found and found[0].time_ms > time_ms:
                high = middle
            else:
                low = middle + 1
        return low

    def _decoded(self, place: Place, raw: bytes, offset: int, time_ms: int) -> PastEvent | None:
        write = self._state.decoder.decode(place.stream, place.dot.sequence, raw)
        if write is None:
            self.missing += 1
            return None
        return PastEvent(place, write, event_pb2.Event.FromString(raw), offset, time_ms)

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
    """Facts of some keys as they stood at a time, over the state as it is now; but for authority, which is of then."""

    def __init__(self, state: State, held: dict[Key, Siblings], authority: AuthorityTable) -> None:
        self.state = state
        self.authority = authority
        self._held = held

    def siblings(self, key: Key) -> Siblings:
        """As of `State`, at the time."""
        return self._held.get(key, ())

    def winner(self, key: Key) -> Write | None:
        """As of `State`, at the time; ranked as things stand now."""
        held = self.siblings(key)
        return winner_of(key, held, self.state.rank) if held else None


async def facts_at(
    replica: Replica, subjects: Sequence[str], time_ms: int, *, ahead: bool = False
) -> PastFacts:
    """What was known here of some nodes, of the policies that may govern them, and of who had authority over them.
    `ahead`: the log since then is read once, for all of them. Raises `ServiceError`, `LogError`.
    """
    reader, state = PastReader(replica), replica.state
    domains = {d for subject in subjects for d in state.domains_of_subject.get(subject, ())}
    paths = {d: state.authority.path_of(d) or (d,) for d in domains}
    above = list(dict.fromkeys(at for path in paths.values() for at in path))
    told = subjects[0] if len(subjects) == 1 else f"one of {len(subjects)} nodes"
    held: dict[Key, Siblings] = {}
    try:
        if ahead:
            await reader.read_ahead(time_ms, set(above))
        for number, key in enumerate(_keys_behind(state, subjects, above), 1):
            held[key] = await _siblings_at(reader, state, key, time_ms)
            if number % KEYS_A_SLICE == 0:
                await asyncio.sleep(0)
        authority = await _authority_at(reader, state, above, time_ms)
    except OutOfReach as error:
        raise _too_far(f"{told} was written too often since then to be read back") from error
    if reader.missing:
        raise _too_far(f"the log no longer reaches back to what {told} was then")
    return PastFacts(state, held, authority)


async def authority_at(replica: Replica, domain: str, time_ms: int) -> AuthorityTable:
    """The records of a domain and of those above it as they were known here at a time. Raises `ServiceError`,
    `LogError`.
    """
    reader, state = PastReader(replica), replica.state
    try:
        table = await _authority_at(
            reader, state, state.authority.path_of(domain) or (domain,), time_ms
        )
    except OutOfReach as error:
        raise _too_far(f"the authority of {domain} changed too often since then") from error
    if reader.missing:
        raise _too_far(f"the log no longer reaches back to who had authority over {domain} then")
    return table


async def _authority_at(
    reader: PastReader, state: State, domains: Iterable[str], time_ms: int
) -> AuthorityTable:
    """The records of some domains. A root's never changes."""
    table = AuthorityTable()
    for domain in domains:
        present = state.authority.records.get(domain)
        key = Key(domain, f"domains/{domain}", "authority")
        held = await _siblings_at(reader, state, key, time_ms)
        if held:
            table.put(winner_of(key, held, state.rank).body())
        elif present is not None and not present.parent and not state.siblings(key):
            table.put(present)
    return table


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


def _keys_behind(state: State, subjects: Iterable[str], above: Iterable[str]) -> list[Key]:
    """The keys that twins are composed of, wherever they lived, and those of the policies of some domains."""
    keys = [
        Key(domain, subject, aspect)
        for subject in subjects
        for domain in state.domains_of_subject.get(subject, ())
        for aspect in NODE_ASPECTS
    ]
    for domain in above:
        for policy in state.subjects_of(domain, "policies"):
            keys += [Key(domain, policy, aspect) for aspect in POLICY_ASPECTS]
    return keys


def past_time_ms(request: Any) -> int:
    """The `as_of_time` of a request. Raises `InvalidWrite` for one that has not come yet."""
    time_ms: int = request.as_of_time.ToMilliseconds()
    if time_ms > time.time_ns() // 1_000_000:
        raise InvalidWrite("as_of_time has not come yet; leave it out for now", field="as_of_time")
    return time_ms


def _too_far(message: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "HISTORY_OUT_OF_REACH",
        f"{message}; ask for a later time, or go through ListNodeEvents",
    )
