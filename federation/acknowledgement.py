"""How far streams are durable on the two sides of one session: what the peer has acknowledged, and what it is told.
Owns both counts and the shape of acknowledgements; never decides when one goes out.

A position says what is held and need not be sent again. Of telemetry it is no acknowledgement, for an event may name a
large value that is still to come (`federation.withheld`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.backlog import RateMeter, SyncDebt, debt_of
from federation.codec import stream_from_message
from federation.comparison import POSITIONS_A_FRAME
from federation.errors import PeerError
from federation.identifiers import Lane, StreamId
from federation.inbox import Inbox
from federation.link_scope import LinkScope
from federation.outbox import Outbox
from federation.state import State
from federation.withheld import Withheld
from souverix.sync.v1 import sync_pb2


class Acknowledgements:
    """Both directions of one session between the domain `domain` and its peer."""

    def __init__(
        self,
        state: State,
        domain: str,
        scope: LinkScope,
        outbox: Outbox,
        inbox: Inbox,
        *,
        keeps_values: bool,
    ) -> None:
        #: How far the peer acknowledged streams.
        self.acked: dict[StreamId, int] = {}
        self.withheld = Withheld(known=not keeps_values)
        self._rate = RateMeter()
        self._state = state
        self._domain = domain
        self._scope = scope
        self._outbox = outbox
        self._inbox = inbox

    # What the peer holds.

    def position(self, stream: StreamId, sequence: int) -> None:
        """The peer holds a stream up to here; of telemetry, its large values may still be to come."""
        self._outbox.peer_holds(stream, sequence)
        if stream.lane is not Lane.TELEMETRY:
            self._reaches(stream, sequence)

    def brought(self, stream: StreamId, sequence: int) -> None:
        """The peer sent a stream up to here: it holds it with all it names."""
        self._outbox.peer_holds(stream, sequence)
        self._reaches(stream, sequence)

    def take(self, ack: sync_pb2.Ack, peer_domain: str, now_ms: int) -> dict[StreamId, int]:
        """Positions an acknowledgement speaks of, none beyond what is held here. Raises `PeerError`."""
        positions: dict[StreamId, int] = {}
        for entry in ack.streams:
            stream = self._named(entry)
            sequence = min(entry.sequence, self._state.received(stream))
            if sequence > 0:
                positions[stream] = sequence
        if ack.durable_at == peer_domain:
            gained = sum(max(0, n - self.acked.get(s, 0)) for s, n in positions.items())
            self._rate.add(gained, now_ms)
            for stream, sequence in positions.items():
                self._reaches(stream, sequence)
        return positions

    def of_sent(self) -> dict[StreamId, int]:
        """What the peer acknowledged of the streams that are sent to it, none beyond what is held here."""
        return {
            stream: min(sequence, self._state.received(stream))
            for stream, sequence in self.acked.items()
            if self._scope.is_sent(stream)
        }

    @property
    def cover_all_sent(self) -> bool:
        """Tells whether all that was sent is acknowledged."""
        return all(
            self.acked.get(stream, 0) >= min(sent, self._counts_to(stream))
            for stream, sent in self._outbox.sent.items()
        )

    def debt(self, now_ms: int) -> SyncDebt:
        """How far the peer is behind."""
        return debt_of(
            self._state.streams,
            self.acked,
            self._is_owed,
            self._rate.rate_events_per_s,
            now_ms,
        )

    # What the peer is told.

    def frames(self, streams: Iterable[StreamId]) -> list[sync_pb2.Frame]:
        """How far streams are durable here, large values included."""
        return self._frames(
            self._domain,
            {
                stream: self.withheld.durable(stream, self._state.received(stream))
                for stream in streams
            },
        )

    def telemetry_frames(self) -> list[sync_pb2.Frame]:
        """The same of all telemetry; nothing while it is not known which large values are here."""
        if not self.withheld.known:
            return []
        return self.frames(
            stream
            for stream in self._state.streams
            if stream.lane is Lane.TELEMETRY and self._scope.is_shared(stream.domain)
        )

    def frames_of_level(
        self, domain: str, positions: Mapping[StreamId, int], below: str
    ) -> list[sync_pb2.Frame]:
        """How far streams are durable at a higher level, as far as they are of the subtree of the domain `below`."""
        table = self._state.authority
        told = {s: n for s, n in positions.items() if table.is_within(s.domain, below)}
        return self._frames(domain, told)

    def _frames(self, durable_at: str, positions: Mapping[StreamId, int]) -> list[sync_pb2.Frame]:
        acks = [self._inbox.ack(stream, sequence) for stream, sequence in positions.items()]
        pages = [acks[i : i + POSITIONS_A_FRAME] for i in range(0, len(acks), POSITIONS_A_FRAME)]
        return [
            sync_pb2.Frame(ack=sync_pb2.Ack(durable_at=durable_at, streams=page)) for page in pages
        ]

    def _named(self, entry: sync_pb2.StreamAck) -> StreamId:
        if entry.HasField("stream"):
            return stream_from_message(entry.stream)
        if entry.stream_index < len(self._outbox.interned):
            return self._outbox.interned[entry.stream_index]
        raise PeerError(f"acknowledged stream number {entry.stream_index} was never used")

    def _counts_to(self, stream: StreamId) -> int:
        """The last event of a stream that a peer has to take: what is void is refused by whoever knows it."""
        received = self._state.received(stream)
        limit = self._state.limit(stream)
        return received if limit is None else min(received, limit.last)

    def _is_owed(self, stream: StreamId) -> bool:
        acked = self.acked.get(stream, 0)
        return self._scope.is_sent(stream) and acked < self._counts_to(stream)

    def _reaches(self, stream: StreamId, sequence: int) -> None:
        if self.acked.get(stream, 0) < sequence:
            self.acked[stream] = sequence
