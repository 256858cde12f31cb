"""Writes in the compact form a store keeps, and back. Owns that form; event bytes stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from federation.codec import EventDecoder, Write
from federation.errors import CorruptStore
from federation.identifiers import Origin
from federation.table import Aspects
from souverix.checkpoint.v1 import checkpoint_pb2


def pack_writes(writes: Iterable[Write]) -> checkpoint_pb2.StoredWrites:
    """Writes of one domain, in their order."""
    stored = checkpoint_pb2.StoredWrites()
    numbers: dict[Origin, int] = {}
    add = stored.writes.add
    for write in writes:
        origin = write[0]
        number = numbers.get(origin)
        if number is None:
            number = numbers[origin] = len(numbers)
            stored.origins.add(controller=origin[0], incarnation=origin[1])
        add(origin=number, sequence=write[1], event=write[11])
    return stored


def unpack_writes(stored: checkpoint_pb2.StoredWrites, decoder: EventDecoder) -> list[Write]:
    """As they were packed. Raises `CorruptStore`."""
    origins = [decoder.origin(o.controller, o.incarnation) for o in stored.origins]
    writes = []
    for each in stored.writes:
        if each.origin >= len(origins):
            raise CorruptStore(f"an event names origin {each.origin} of {len(origins)}")
        write = decoder.decode_stored(origins[each.origin], each.sequence, each.event)
        if write is None:
            raise CorruptStore("an event has a body that this release does not know")
        writes.append(write)
    return writes


def pack_aspects(aspects: Aspects) -> bytes:
    """All that stands of one subject in one domain."""
    return pack_writes(
        write for siblings in aspects.values() for write in siblings
    ).SerializeToString()


def unpack_aspects(data: bytes, decoder: EventDecoder) -> Aspects:
    """As it was packed. Raises `CorruptStore`."""
    aspects: Aspects = {}
    for write in unpack_writes(checkpoint_pb2.StoredWrites.FromString(data), decoder):
        aspects[write[4]] = (*aspects.get(write[4], ()), write)
    return aspects


def pack_history(writes: Sequence[Write]) -> bytes:
    """Transitions of one subject in one domain, in their order."""
    return pack_writes(writes).SerializeToString()


def unpack_history(data: bytes, decoder: EventDecoder) -> list[Write]:
    """As it was packed. Raises `CorruptStore`."""
    return unpack_writes(checkpoint_pb2.StoredWrites.FromString(data), decoder)
