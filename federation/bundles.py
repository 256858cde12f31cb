"""What goes into a bundle for a peer, and how what came out of one stands to what is held here. Owns both judgements;
never touches files, keys or the log: drivers read and hand over.

A bundle holds what a session would send (design §7): the rule is the session's own, so that file and link leave the
same behind (I14).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from federation.chain import extend
from federation.codec import stream_from_message, stream_to_message
from federation.examination import Findings, decoded
from federation.identifiers import StreamId
from federation.outbox import LogReading, Outbox
from federation.receipt import check_shape
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Bytes put by while control overtakes them: a controller exports to few peers at once.
MAX_PUT_BY_BYTES = 32 * 1024 * 1024


class Selection:
    """The events of one bundle: all that `wanted` names of the log as it stands, beyond what the peer holds.

    Asks for readings until there are none; each gives runs in the order in which they are to be taken in.
    """

    def __init__(
        self, state: State, wanted: Callable[[StreamId], bool], held: Mapping[StreamId, int]
    ) -> None:
        self._outbox = Outbox(state, wanted, 0, MAX_PUT_BY_BYTES)
        for stream, sequence in held.items():
            self._outbox.peer_holds(stream, min(sequence, state.received(stream)))
        self._outbox.reposition()
        #: Later commits are the next bundle's: a log that grows while it is read would have no end.
        self._end_offset = state.next_offset

    def next_reading(self) -> LogReading | None:
        """What to read next; None: all was read."""
        reading = self._outbox.next_reading()
        if reading is None or reading.first_offset >= self._end_offset:
            return None
        return reading

    def take(self, reading: LogReading, commits: Sequence[event_pb2.Commit]) -> None:
        """Takes in what was read."""
        self._outbox.take(reading, [c for c in commits if c.offset < self._end_offset])

    def runs(self) -> Iterator[event_pb2.Run]:
        """The runs that are ready now."""
        while (taken := self._outbox.next_frame(0)) is not None:
            for run in taken[0].runs.runs:
                yield event_pb2.Run(
                    stream=stream_to_message(self._outbox.interned[run.stream_index]),
                    first_sequence=run.first_sequence,
                    events=run.events,
                    seal=run.seal,
                )


def positions(state: State, wanted: Callable[[StreamId], bool]) -> list[sync_pb2.StreamPosition]:
    """How far this side holds the streams that `wanted` names, in a stable order."""
    return [
        sync_pb2.StreamPosition(
            stream=stream_to_message(stream), sequence=held.received, chain_hash=held.chain_hash
        )
        for stream, held in sorted(state.streams.items())
        if held.received and wanted(stream)
    ]


class Standing(enum.Enum):
    """How a run stands to what is held here."""

    #: Some of it is new, and follows what is held.
    NEW = "NEW"
    #: All of it is here already.
    APPLIED = "ALREADY_APPLIED"
    #: Events before it are missing.
    GAP = "GAP"
    #: It contradicts what is held: the same numbers, other events.
    ROLLBACK = "ROLLBACK"
    #: A known key of its origin did not make its seal.
    FORGED = "SEAL_INVALID"
    #: The peer may not bring this stream.
    OUT_OF_SCOPE = "OUT_OF_SCOPE"


class Missing(NamedTuple):
    """Events that must come first."""

    stream: StreamId
    first_sequence: int
    last_sequence: int


class Follower:
    """Follows the runs of one file from what is held here, before any of them is taken. Whoever reads the file has held
    each run against the one of its stream before it (`airgap.reader`); what the first of a stream follows is seen here.
    """

    def __init__(self, state: State, may_bring: Callable[[StreamId], bool]) -> None:
        self.missing: dict[StreamId, Missing] = {}
        #: Events of the runs so far that are not held here.
        self.new_events = 0
        self._state = state
        self._may_bring = may_bring
        #: Where streams stand after the runs so far, where these are new.
        self._heads: dict[StreamId, tuple[int, bytes]] = {}
        #: Of streams with new runs, the last event held, and its chain hash.
        self._held: dict[StreamId, tuple[int, bytes]] = {}
        #: Keys as they stood when the first run they seal came; None: not known then. Seals are held against these.
        self._keys: dict[tuple[str, str], bytes | None] = {}

    def stand(self, run: event_pb2.Run) -> Standing:
        """How the next run stands. Raises `InvalidWrite` where it is malformed."""
        stream = stream_from_message(run.stream)
        check_shape(stream, run)
        if not self._may_bring(stream):
            return Standing.OUT_OF_SCOPE
        in_file = self._heads.get(stream)
        received, chain_hash = in_file or (
            self._state.received(stream),
            self._state.chain_hash(stream),
        )
        if run.seal.sequence <= received:
            same = run.seal.sequence < received or run.seal.chain_hash == chain_hash
            return Standing.APPLIED if same else Standing.ROLLBACK
        if run.first_sequence > received + 1:
            self.missing.setdefault(stream, Missing(stream, received + 1, run.first_sequence - 1))
            return Standing.GAP
        if in_file is None:
            if (
                extend(chain_hash, run.events[received + 1 - run.first_sequence :])
                != run.seal.chain_hash
            ):
                return Standing.ROLLBACK
            self._held[stream] = (received, chain_hash)
        if not self._seal_may_be_good(stream, run.seal):
            return Standing.FORGED
        self._heads[stream] = (run.seal.sequence, run.seal.chain_hash)
        self.new_events += run.seal.sequence - received
        return Standing.NEW

    def _seal_may_be_good(self, stream: StreamId, seal: event_pb2.Seal) -> bool:
        """Tells whether a known key made a seal, or none is known yet that could have made it."""
        keys, name = self._state.keys, (stream.origin.controller, seal.key_id)
        if name not in self._keys:
            self._keys[name] = keys.public_key(*name)
        return self._keys[name] is None or keys.seal_is_good(stream, seal)

    def read_again(self) -> Reread:
        """What is known of the runs once all of them were followed and none was refused, for a second reading."""
        return Reread(self._state, self._held, self._keys)


class Reread:
    """Examines runs that were followed to the end of their file and are read once more, byte for byte the same. Chains
    and seals are not computed again: that they are good is known.
    """

    def __init__(
        self,
        state: State,
        held: Mapping[StreamId, tuple[int, bytes]],
        proven: Mapping[tuple[str, str], bytes | None],
    ) -> None:
        self._state = state
        self._heads = dict(held)
        self._proven = proven

    def examine(self, run: event_pb2.Run) -> Findings | None:
        """Findings on the next run; None where a part of it, or all, was held already when it was followed."""
        stream = stream_from_message(run.stream)
        head = self._heads.get(stream)
        if head is None or run.seal.sequence <= head[0]:
            return None
        self._heads[stream] = (run.seal.sequence, run.seal.chain_hash)
        received, follows = head
        if run.first_sequence != received + 1:
            return None
        keys, name = self._state.keys, (stream.origin.controller, run.seal.key_id)
        known = keys.public_key(*name)
        proven = known is not None and self._proven.get(name) == known
        return Findings(
            run,
            follows,
            chain_is_good=True,
            seal_is_good=proven or keys.seal_is_good(stream, run.seal),
            writes=decoded(stream, run, run.events[:], self._state.decoder),
        )


def held_positions(
    positions: Iterable[sync_pb2.StreamPosition], state: State
) -> dict[StreamId, int]:
    """What a peer says it holds, as far as it is held here; where it names our head by another hash, nothing of that
    stream counts. Raises `InvalidWrite` for a malformed name.
    """
    held = {}
    for position in positions:
        stream = stream_from_message(position.stream)
        received = state.received(stream)
        if position.sequence == received and position.chain_hash not in (
            b"",
            state.chain_hash(stream),
        ):
            continue
        if min(position.sequence, received) > 0:
            held[stream] = min(position.sequence, received)
    return held
