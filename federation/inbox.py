"""What a peer sends, by the stream numbers of the receiving direction. Owns those numbers; never looks into events."""

from __future__ import annotations

from collections.abc import Callable

from federation.codec import stream_from_message, stream_to_message
from federation.errors import PeerError
from federation.identifiers import StreamId
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Streams one session may name: more than any domain tree on record, less than a hostile peer needs to fill memory.
MAX_STREAMS = 100_000


class Inbox:
    """The receiving direction of one session."""

    __slots__ = ("_index", "_may_bring", "_streams")

    def __init__(self, may_bring: Callable[[StreamId], bool]) -> None:
        self._may_bring = may_bring
        self._streams: list[StreamId] = []
        self._index: dict[StreamId, int] = {}

    def take(self, runs: sync_pb2.Runs) -> list[tuple[StreamId, event_pb2.Run]]:
        """The runs of a frame with their streams' names. Raises `PeerError`, `InvalidWrite`."""
        for intern in runs.interns:
            if intern.index != len(self._streams) or intern.index >= MAX_STREAMS:
                raise PeerError(f"stream number {intern.index} is not the next")
            stream = stream_from_message(intern.stream)
            self._index[stream] = intern.index
            self._streams.append(stream)
        return [self._named(run) for run in runs.runs]

    def ack(self, stream: StreamId, sequence: int) -> sync_pb2.StreamAck:
        """How far a stream is durable, in the fewest bytes."""
        index = self._index.get(stream)
        if index is not None:
            return sync_pb2.StreamAck(stream_index=index, sequence=sequence)
        return sync_pb2.StreamAck(stream=stream_to_message(stream), sequence=sequence)

    def _named(self, run: sync_pb2.InternedRun) -> tuple[StreamId, event_pb2.Run]:
        if run.stream_index >= len(self._streams):
            raise PeerError(f"stream number {run.stream_index} was not named")
        stream = self._streams[run.stream_index]
        if not self._may_bring(stream):
            raise PeerError(f"the peer may not bring events of domain {stream.domain}")
        named = event_pb2.Run(
            stream=stream_to_message(stream),
            first_sequence=run.first_sequence,
            events=run.events,
            seal=run.seal,
        )
        return stream, named
