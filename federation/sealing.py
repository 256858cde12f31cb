"""Makes sealed runs of a stream's drafts. Owns where a run is cut; never numbers events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from federation.chain import Signer, extend, seal
from federation.codec import Write, stream_to_message
from federation.identifiers import StreamId
from souverix.event.v1 import event_pb2

#: Own runs are cut at this size: half the largest run a peer takes, so that even one event more would still fit.
MAX_OWN_RUN_BYTES = 256 * 1024


def sealed_runs(
    signer: Signer, stream: StreamId, chain_hash: bytes, writes: Sequence[Write]
) -> Iterator[tuple[event_pb2.Run, list[Write]]]:
    """Consecutive writes that follow `chain_hash`, as runs of at most `MAX_OWN_RUN_BYTES` but for one event that is
    larger, each with the writes in it.
    """
    for part in _cut(writes):
        events = [write.raw for write in part]
        chain_hash = extend(chain_hash, events)
        run = event_pb2.Run(
            stream=stream_to_message(stream),
            first_sequence=part[0].sequence,
            events=events,
            seal=seal(signer, stream, part[-1].sequence, chain_hash),
        )
        yield run, part


def _cut(writes: Sequence[Write]) -> Iterator[list[Write]]:
    part: list[Write] = []
    size = 0
    for write in writes:
        if part and size + len(write.raw) > MAX_OWN_RUN_BYTES:
            yield part
            part, size = [], 0
        part.append(write)
        size += len(write.raw)
    yield part
