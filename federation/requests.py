"""Which requests were executed, and what each wrote first. Owns the memory behind idempotency and its bound; never
executes or refuses anything.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from federation.identifiers import StreamId

#: Requests remembered for idempotency: at 1,000 writes a second a quarter of an hour, on a quiet controller months.
MAX_REMEMBERED_REQUESTS = 1_000_000

#: Of a request's principal and id together: no two of a million are alike by chance, nor by will.
DIGEST_BYTES: Final = 16

#: Sequence, offset, number of the place; the subject follows.
_HEAD: Final = struct.Struct("<QQI")

_Place = tuple[StreamId, str]


class RequestOutcome(NamedTuple):
    """What a remembered request wrote first."""

    subject: str
    aspect: str
    stream: StreamId
    sequence: int
    offset: int


class RememberedRequests:
    """The newest requests with an id, by principal and id.

    Packed, some 200 bytes each: a digest of the request, and its outcome as bytes.
    """

    __slots__ = ("_bound", "_numbers", "_order", "_outcomes", "_places", "forgotten")

    def __init__(self, bound: int = MAX_REMEMBERED_REQUESTS) -> None:
        self._bound = bound
        self._outcomes: dict[bytes, bytes] = {}
        self._order: deque[bytes] = deque()
        self._places: list[_Place] = []
        self._numbers: dict[_Place, int] = {}
        #: Requests that were remembered once and are no more.
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._outcomes)

    def __contains__(self, request: tuple[str, str]) -> bool:
        return _digest(*request) in self._outcomes

    def get(self, request: tuple[str, str]) -> RequestOutcome | None:
        """The outcome of a request, given as (principal, request_id); None when it is not remembered."""
        packed = self._outcomes.get(_digest(*request))
        return self.unpacked(packed) if packed is not None else None

    def note(
        self,
        principal: str,
        request_id: str,
        subject: str,
        aspect: str,
        stream: StreamId,
        sequence: int,
        offset: int,
    ) -> None:
        """Remembers what a request wrote, unless it wrote something before."""
        digest = _digest(principal, request_id)
        if digest not in self._outcomes:
            self._put(digest, subject, (stream, aspect), sequence, offset)

    def packed(self, count: int) -> list[tuple[bytes, bytes]]:
        """Digests and packed outcomes of so many of the newest requests, the oldest of them first."""
        outcomes = self._outcomes
        return [(d, outcomes[d]) for d in [*islice(reversed(self._order), count)][::-1]]

    def newest(self, count: int) -> Iterator[tuple[bytes, RequestOutcome]]:
        """Digests and outcomes of so many of the newest requests, the oldest of them first."""
        for digest, packed in self.packed(count):
            yield digest, self.unpacked(packed)

    @property
    def seen(self) -> int:
        """Requests that were ever remembered."""
        return self.forgotten + len(self._order)

    def restore(self, digest: bytes, outcome: RequestOutcome) -> None:
        """Takes in what `newest` gave, in its order."""
        place = (outcome.stream, outcome.aspect)
        self._put(digest, outcome.subject, place, outcome.sequence, outcome.offset)

    def _put(self, digest: bytes, subject: str, place: _Place, sequence: int, offset: int) -> None:
        number = self._numbers.get(place)
        if number is None:
            number = self._numbers[place] = len(self._places)
            self._places.append(place)
        self._outcomes[digest] = _HEAD.pack(sequence, offset, number) + subject.encode()
        self._order.append(digest)
        if len(self._order) > self._bound:
            del self._outcomes[self._order.popleft()]
            self.forgotten += 1

    def unpacked(self, packed: bytes) -> RequestOutcome:
        """The outcome that `packed` gave; any thread may ask."""
        sequence, offset, number = _HEAD.unpack_from(packed)
        stream, aspect = self._places[number]
        return RequestOutcome(packed[_HEAD.size :].decode(), aspect, stream, sequence, offset)


def _digest(principal: str, request_id: str) -> bytes:
    return hashlib.blake2b(f"{principal}\0{request_id}".encode(), digest_size=DIGEST_BYTES).digest()
