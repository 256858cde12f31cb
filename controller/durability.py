"""How far writes are durable beyond this controller. Owns acknowledgement vectors by ancestor domain; they are
rebuilt by every sync session, so nothing of it is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from federation.identifiers import StreamId

Position = tuple[StreamId, int]


class Durability:
    """Per ancestor domain, the highest number of each stream known to be durable there."""

    def __init__(self) -> None:
        self._vectors: dict[str, dict[StreamId, int]] = {}
        self._changed = asyncio.Condition()

    async def advance(self, domain: str, positions: Mapping[StreamId, int]) -> None:
        """Takes in an acknowledgement and wakes whoever waits for it."""
        vector = self._vectors.setdefault(domain, {})
        for stream, sequence in positions.items():
            if vector.get(stream, 0) < sequence:
                vector[stream] = sequence
        async with self._changed:
            self._changed.notify_all()

    def vectors(self) -> Mapping[str, Mapping[StreamId, int]]:
        """All that is known, by domain."""
        return self._vectors

    def reached(self, domain: str, stream: StreamId) -> int:
        """Number up to which a stream is known to be durable at a domain."""
        return self._vectors.get(domain, {}).get(stream, 0)

    def domains_holding(
        self, positions: Iterable[Position], candidates: Sequence[str]
    ) -> list[str]:
        """Of the candidates, those at which all positions are durable."""
        wanted = list(positions)
        return [d for d in candidates if all(self.reached(d, stream) >= n for stream, n in wanted)]

    async def wait(self, domain: str, positions: Sequence[Position], timeout_s: float) -> bool:
        """Waits until all positions are durable at the domain; False when the time passed before."""

        def is_reached() -> bool:
            return all(self.reached(domain, stream) >= n for stream, n in positions)

        if is_reached():
            return True
        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(is_reached), timeout_s)
        except TimeoutError:
            return False
        return True
